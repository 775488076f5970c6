# The options of NixOS that the project sets, or that rendering what it sets needs: by the file of NixOS (26.05) that declares them, with the
# type and default that they have there. Any other option is an error. A submodule's options that nobody here sets are left out as well.
# Read in several versions of those files, as public mirrors have them, none of them the pinned one: where they differ, as of Type= and
# Restart=, the narrower stands here.
{ lib, pkgs }:
let
  inherit (lib) mkOption types;
  option = type: mkOption { inherit type; };
  default = default: type: mkOption { inherit type default; };
  list = type: default [ ] (types.listOf type);
  set = type: default { } (types.attrsOf type);
  sub = options: types.submodule { inherit options; };
  flag = default false types.bool;
  # A field of /etc/passwd.
  passwdEntry = type: types.addCheck type (value: builtins.match "[^:\n]*" value != null) // { description = "${type.description}, not containing newlines or colons"; };

  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  # The value of a directive: lists repeat it and add up, everything else has to be equal wherever it is set.
  unitOption = types.unspecified // {
    name = "systemd option";
    description = "systemd option";
    merge =
      loc: defs:
      if lib.any (def: lib.isList def.value) defs then
        lib.concatMap (def: lib.toList def.value) defs
      else if lib.all (def: def.value == (lib.head defs).value) defs then
        (lib.head defs).value
      else
        throw "The option `${lib.showOption loc}' has conflicting definition values.";
  };
  oneOf = name: values: config: !(config ? ${name}) || lib.elem (config.${name}.content or config.${name}) values;
  serviceConfig = types.addCheck (types.attrsOf unitOption) (
    config:
    oneOf "Type" [ "exec" "simple" "forking" "oneshot" "dbus" "notify" "idle" ] config
    && oneOf "Restart" [ "no" "on-success" "on-failure" "on-abnormal" "on-abort" "always" ] config
  );
in
{
  "nixos/modules/misc/assertions.nix" = {
    assertions = list types.unspecified;
    warnings = list types.str;
  };
  "nixos/modules/misc/nixpkgs.nix".nixpkgs.hostPlatform = mkOption {
    type = types.either types.str types.attrs;
    apply = platform: if lib.isString platform then { system = platform; } else platform;
  };
  "nixos/modules/misc/version.nix".system.stateVersion = option types.str;
  "nixos/modules/system/build.nix".system.build = default { } (types.lazyAttrsOf (types.uniq types.unspecified));

  "nixos/modules/config/system-path.nix".environment.systemPackages = list types.package;
  "nixos/modules/system/etc/etc.nix".environment.etc = set (
    types.submodule (
      { name, config, ... }:
      {
        options = {
          text = default null (types.nullOr types.lines);
          source = option types.path;
          mode = default "symlink" types.str;
          user = default "+0" types.str;
          group = default "+0" types.str;
        };
        config.source = lib.mkIf (config.text != null) (lib.mkDefault (pkgs.writeText "etc-${lib.replaceStrings [ "/" ] [ "-" ] name}" config.text));
      }
    )
  );
  "nixos/modules/config/users-groups.nix".users = {
    users = set (
      types.submodule (
        { name, config, ... }:
        {
          options = {
            name = option (passwdEntry types.str);
            description = default "" (passwdEntry types.str);
            uid = default null (types.nullOr types.int);
            isSystemUser = flag;
            isNormalUser = flag;
            group = default "" types.str;
            extraGroups = list types.str;
            home = default "/var/empty" (passwdEntry types.path);
            createHome = flag;
            openssh.authorizedKeys.keys = list types.singleLineStr; # declared in nixos/modules/services/networking/ssh/sshd.nix
          };
          config = lib.mkMerge [
            { name = lib.mkDefault name; }
            (lib.mkIf config.isNormalUser {
              group = lib.mkDefault "users";
              createHome = lib.mkDefault true;
              home = lib.mkDefault "/home/${name}";
            })
          ];
        }
      )
    );
    groups = set (
      sub {
        gid = default null (types.nullOr types.int);
        members = list types.str;
      }
    );
  };

  "nixos/lib/systemd-unit-options.nix".systemd.services = set (
    types.submodule (
      { name, config, ... }:
      {
        options = {
          enable = default true types.bool;
          description = default "" types.singleLineStr;
          documentation = list types.str;
          requires = list unitName;
          wants = list unitName;
          after = list unitName;
          before = list unitName;
          bindsTo = list unitName;
          partOf = list unitName;
          conflicts = list unitName;
          onFailure = list unitName;
          wantedBy = list unitName;
          requiredBy = list unitName;
          startLimitIntervalSec = option types.int;
          startLimitBurst = option types.int;
          unitConfig = set unitOption;
          serviceConfig = default { } serviceConfig;
          environment = set (
            types.nullOr (
              types.oneOf [
                types.str
                types.path
                types.package
              ]
            )
          );
          path = list (types.oneOf [ types.package types.str ]);
          restartTriggers = list types.unspecified;
          reloadTriggers = list unitOption;
          restartIfChanged = default true types.bool;
          stopIfChanged = default true types.bool;
          script = default "" types.lines;
        };
        config = lib.mkMerge [
          {
            path = lib.mkAfter [
              pkgs.coreutils
              pkgs.findutils
              pkgs.gnugrep
              pkgs.gnused
              pkgs.systemd
            ];
            environment.PATH = "${lib.makeBinPath config.path}:${lib.makeSearchPath "sbin" config.path}";
          }
          (lib.mkIf (config.script != "") {
            serviceConfig.ExecStart = toString (pkgs.writeShellScript "unit-script-${name}-start" "set -e\n${config.script}");
          })
        ];
      }
    )
  );
  "nixos/modules/system/boot/systemd.nix".systemd.units = set (
    sub {
      enable = default true types.bool;
      text = default null (types.nullOr types.str);
      wantedBy = list unitName;
      requiredBy = list unitName;
    }
  );
  "nixos/modules/system/boot/systemd/tmpfiles.nix".systemd.tmpfiles = {
    rules = list types.str;
    settings = set (
      types.attrsOf (
        types.attrsOf (
          types.submodule (
            { name, ... }:
            {
              options = {
                type = default name types.str;
                mode = default "-" types.str;
                user = default "-" types.str;
                group = default "-" types.str;
                age = default "-" types.str;
                argument = default "" types.str;
              };
            }
          )
        )
      )
    );
  };

  "nixos/modules/services/networking/firewall.nix".networking.firewall = {
    enable = default true types.bool;
    allowedTCPPorts = mkOption {
      type = types.listOf types.port;
      default = [ ];
      apply = ports: lib.unique (lib.sort lib.lessThan ports);
    };
  };
  "nixos/modules/tasks/network-interfaces.nix".networking.hostName = default "nixos" (
    types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$"
  );
  "nixos/modules/services/networking/ssh/sshd.nix".services.openssh.enable = flag;
  "nixos/modules/system/boot/timesyncd.nix".services.timesyncd.enable = default true types.bool;
  "nixos/modules/system/boot/loader/systemd-boot/systemd-boot.nix".boot.loader.systemd-boot.enable = flag;
  "nixos/modules/tasks/filesystems.nix".fileSystems = set (
    sub {
      device = default null (types.nullOr types.nonEmptyStr);
      fsType = default "auto" types.nonEmptyStr;
      options = default [ "defaults" ] (types.nonEmptyListOf types.nonEmptyStr);
    }
  );
}
