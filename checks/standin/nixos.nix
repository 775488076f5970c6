# lib.nixosSystem: evaluates modules against the options of options.nix and renders, as NixOS does, what they declare. config.system.build.toplevel
# has it as a tree: etc/ with the units, tmpfiles.d, sysusers.d and the files of environment.etc, and sw/bin with the packages' programs.
{ lib, legacyPackages }:
{
  modules,
  specialArgs ? { },
}:
let
  declarations =
    { pkgs, ... }:
    {
      imports = lib.mapAttrsToList (file: options: {
        _file = file;
        inherit options;
      }) (import ./options.nix { inherit lib pkgs; });
    };

  # Directives in the order of their names; a list repeats its directive.
  section = directives: lib.concatStrings (lib.mapAttrsToList (name: value: lib.concatMapStrings (line name) (lib.toList value)) directives);
  line = name: value: "${name}=${if lib.isBool value then lib.boolToString value else toString value}\n";
  trigger = pkgs: kind: name: values: "${pkgs.writeText "X-${kind}-Triggers-${name}" (toString (map (x: if builtins.isPath x then "${x}" else x) (lib.flatten values)))}";

  # isSet: whether an option of the service is set anywhere.
  unitText =
    pkgs: name: service: isSet:
    let
      listed = {
        Requires = service.requires;
        Wants = service.wants;
        After = service.after;
        Before = service.before;
        BindsTo = service.bindsTo;
        PartOf = service.partOf;
        Conflicts = service.conflicts;
        OnFailure = service.onFailure;
        Documentation = service.documentation;
      };
      unit =
        lib.mapAttrs (_: toString) (lib.filterAttrs (_: names: names != [ ]) listed)
        // lib.optionalAttrs (service.description != "") { Description = service.description; }
        // lib.optionalAttrs (service.restartTriggers != [ ]) { X-Restart-Triggers = trigger pkgs "Restart" name service.restartTriggers; }
        // lib.optionalAttrs (service.reloadTriggers != [ ]) { X-Reload-Triggers = trigger pkgs "Reload" name service.reloadTriggers; }
        // lib.optionalAttrs (isSet "startLimitIntervalSec") { StartLimitIntervalSec = service.startLimitIntervalSec; }
        // lib.optionalAttrs (isSet "startLimitBurst") { StartLimitBurst = service.startLimitBurst; }
        // service.unitConfig;
      environment = lib.filterAttrs (_: value: value != null) service.environment;
    in
    lib.concatStrings (
      [
        "[Unit]\n"
        (section unit)
        "\n[Service]\n"
      ]
      ++ lib.mapAttrsToList (variable: value: "Environment=${builtins.toJSON "${variable}=${value}"}\n") environment
      ++ [
        (lib.optionalString (!service.restartIfChanged) "X-RestartIfChanged=false\n")
        (lib.optionalString (!service.stopIfChanged) "X-StopIfChanged=false\n")
        (section service.serviceConfig)
        (lib.optionalString (service.wantedBy != [ ]) "\n[Install]\nWantedBy=${toString service.wantedBy}\n")
      ]
    );

  rendering =
    { config, options, pkgs, ... }:
    {
      _file = "the stand-in for NixOS";
      _module.args.pkgs = legacyPackages.${config.nixpkgs.hostPlatform.system};
      systemd.units = lib.mapAttrs' (
        name: service:
        lib.nameValuePair "${name}.service" {
          inherit (service) enable wantedBy requiredBy;
          text = unitText pkgs name service (isSet options.systemd.services name);
        }
      ) config.systemd.services;
      assertions = lib.concatLists (
        lib.mapAttrsToList (name: user: [
          {
            assertion = user.isSystemUser != user.isNormalUser;
            message = "Exactly one of users.users.${name}.isSystemUser and users.users.${name}.isNormalUser must be set.";
          }
          {
            assertion = lib.stringLength user.name < 32 && lib.stringLength user.group < 32;
            message = "users.users.${name}: names of users and groups have at most 31 characters.";
          }
          {
            assertion = user.group != "";
            message = "users.users.${name}.group is unset. This used to default to nogroup, but this is unsafe.";
          }
          {
            assertion = user.group == "" || user.group == "users" || config.users.groups ? ${user.group};
            message = "users.users.${name}.group is ${user.group}, which is not in users.groups.";
          }
        ]) config.users.users
      );
      system.build = {
        toplevel = checked config (toplevel pkgs config);
        images.qemu-efi = pkgs.runCommand "image-stand-in" { } ''
          mkdir $out
          ln -s ${config.system.build.toplevel} $out/toplevel
        '';
      };
    };

  # A set of submodules keeps its options to itself: which of them are set is seen in its definitions.
  isSet =
    services: name: attribute:
    lib.any (definition: lib.any (values: values ? ${attribute}) (lib.pushDownProperties (definition.${name} or { }))) (
      lib.concatMap lib.pushDownProperties services.definitions
    );

  checked =
    config: value:
    let
      failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
      warned = lib.foldl' (v: message: lib.warn message v) value config.warnings;
    in
    if failed == [ ] then warned else throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (message: "- ${message}") failed}";

  toplevel =
    pkgs: config:
    let
      file = path: text: {
        inherit path;
        source = "${pkgs.writeText (lib.replaceStrings [ "/" "@" ] [ "-" "-" ] path) text}";
      };
      units = lib.filterAttrs (_: unit: unit.enable) config.systemd.units;
      links = kind: attribute: lib.concatLists (lib.mapAttrsToList (name: unit: map (target: "systemd/system/${target}.${kind}/${name}") unit.${attribute}) units);
      rule = path: _: e: "'${e.type}' '${path}' '${e.mode}' '${e.user}' '${e.group}' '${e.age}' ${e.argument}\n";
      users = lib.mapAttrsToList (
        _: user: "u ${user.name} ${if user.uid == null then "-" else toString user.uid}:${user.group} \"${user.description}\" ${user.home}\n"
        + lib.concatMapStrings (group: "m ${user.name} ${group}\n") user.extraGroups
      ) config.users.users;
      groups = lib.mapAttrsToList (
        name: group: "g ${name} ${if group.gid == null then "-" else toString group.gid}\n"
        + lib.concatMapStrings (member: "m ${member} ${name}\n") group.members
      ) config.users.groups;
      files =
        lib.mapAttrsToList (name: unit: file "systemd/system/${name}" unit.text) units
        ++ lib.mapAttrsToList (
          name: paths: file "tmpfiles.d/${name}.conf" (lib.concatStrings (lib.concatLists (lib.mapAttrsToList (path: entries: lib.mapAttrsToList (rule path) entries) paths)))
        ) config.systemd.tmpfiles.settings
        ++ [
          (file "tmpfiles.d/00-nixos.conf" (lib.concatLines config.systemd.tmpfiles.rules))
          (file "sysusers.d/00-nixos.conf" (lib.concatStrings (groups ++ users)))
          (file "firewall/allowed-tcp-ports" (lib.concatMapStrings (port: "${toString port}\n") config.networking.firewall.allowedTCPPorts))
          (file "hostname" "${config.networking.hostName}\n")
        ]
        ++ lib.mapAttrsToList (path: entry: {
          inherit path;
          source = "${entry.source}";
        }) config.environment.etc;
    in
    pkgs.runCommand "nixos-system-${config.networking.hostName}-stand-in" { } ''
      mkdir -p $out/sw/bin
      ${lib.concatMapStrings (f: ''
        if [ ! -e ${f.source} ]; then echo "environment.etc: ${f.source} is not there" >&2; exit 1; fi
        mkdir -p $out/etc/$(dirname ${f.path})
        ln -s ${f.source} $out/etc/${f.path}
      '') files}
      for link in ${toString (links "wants" "wantedBy" ++ links "requires" "requiredBy")}; do
        mkdir -p $out/etc/$(dirname $link)
        ln -s ../''${link##*/} $out/etc/$link
      done
      for package in ${toString config.environment.systemPackages}; do
        if [ -d $package/bin ]; then ln -sf $package/bin/* $out/sw/bin/; fi
      done
    '';
  evaluated = lib.evalModules {
    inherit specialArgs;
    class = "nixos";
    modules = [ declarations rendering ] ++ modules;
  };
in
evaluated // { inherit (evaluated._module.args) pkgs; }
