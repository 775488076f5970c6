# What the modules have in common: options from the programs' own table, the configuration file and its check, the unit.
{ lib, pkgs }:
let
  inherit (lib) mkOption types;
  format = pkgs.formats.json { };
  # Written from src/config by "go test ./src/config -update".
  table = lib.importJSON ./settings.json;

  typeOf = attr: {
    string = if attr ? pattern then types.strMatching attr.pattern else types.str;
    path = types.path;
    strings = types.listOf types.str;
    enum = types.enum attr.values;
    integer = types.ints.between (attr.min or 0) attr.max;
  }.${attr.type};

  # An attribute of the configuration file. One that has neither a default nor to be set is null, and then not written.
  toOption = attr:
    let computed = !(attr ? default) && !(attr.required or false);
    in mkOption ({
      type = if computed then types.nullOr (typeOf attr) else typeOf attr;
      description = "${attr.doc}\n\nAllowed: ${attr.allowed}.";
    }
    // lib.optionalAttrs computed { default = null; defaultText = lib.literalMD attr.defaultText; }
    // lib.optionalAttrs (attr ? default) { inherit (attr) default; }
    // lib.optionalAttrs (attr ? example) { inherit (attr) example; });

  # A block of the configuration file, or the file itself. What is not known here is passed on, for check-config to judge.
  toSubmodule = block: types.submodule {
    freeformType = format.type;
    options = lib.mapAttrs (_: toOption) (block.attrs or { })
      // lib.mapAttrs
        (_: sub: mkOption {
          type = if sub ? label then types.attrsOf (toSubmodule sub) else toSubmodule sub;
          default = { };
          description = sub.doc;
        })
        (block.blocks or { });
  };

  # HCL's JSON syntax takes ${ and %{ in a string for a template; doubled they stand for themselves.
  toFile = value:
    if builtins.isString value then lib.replaceStrings [ "\${" "%{" ] [ "$\${" "%%{" ] value
    else if builtins.isPath value || lib.isDerivation value then "${value}"
    else if builtins.isList value then map toFile value
    else if builtins.isAttrs value then lib.mapAttrs (_: toFile) (lib.filterAttrs (_: v: v != null && v != { }) value)
    else value;
in
{
  # settingsOption BLOCK: an option for what may stand in BLOCK, which is a value of "blocks".
  settingsOption = block: mkOption {
    type = toSubmodule block;
    default = { };
    description = block.doc;
  };
  blocks = table;

  # configFile { name, settings, check, options }: the file, checked by the program itself. A mistake fails the build.
  configFile = { name, settings, check, options }:
    let raw = format.generate name (toFile settings);
    in if !(pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) then raw else
    pkgs.runCommand name { } ''
      cp ${raw} ${name}
      if ! ${check} ${name} >log 2>&1; then
        cat log >&2
        echo "This file is made from ${options}: mend it there." >&2
        exit 1
      fi
      cat log
      cp ${name} $out
    '';

  isInStore = path: builtins.isPath path || lib.hasPrefix builtins.storeDir (toString path);

  # Options that every daemon has.
  daemonOptions = name: {
    enable = lib.mkEnableOption name;
    package = lib.mkPackageOption pkgs name { };
    watchdogSec = mkOption {
      type = types.ints.between 10 86400;
      default = 180;
      description = "Seconds without progress after which systemd kills the daemon and starts it again. Every scan feeds the watchdog, if all workers are on time.";
    };
    onFailure = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "tell-the-keeper@%n.service" ];
      description = "Units to start each time the daemon fails, also when it is started again by itself.";
    };
    metrics.enable = lib.mkEnableOption "Prometheus metrics, over plain HTTP on the loopback address unless `settings.metrics_listen` says otherwise";
  };

  # service { … }: the unit of a daemon. Each directive's reason stands in README.md.
  service = { cfg, name, command, description, config, user, group, dir, runDir, reload, restart }: {
    inherit description;
    documentation = [ "man:${name}(1)" ];
    wantedBy = [ "multi-user.target" ];
    wants = [ "network-online.target" ];
    after = [ "network-online.target" "time-sync.target" "nss-user-lookup.target" ];
    onFailure = cfg.onFailure;
    startLimitIntervalSec = 0;
    reloadTriggers = reload;
    restartTriggers = restart;
    unitConfig.RequiresMountsFor = [ dir ];
    serviceConfig = {
      Type = "notify";
      NotifyAccess = "main";
      ExecStart = "${lib.getExe cfg.package} ${command} --config ${config}";
      ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
      User = user;
      Group = group;
      UMask = "0027";
      WatchdogSec = cfg.watchdogSec;
      TimeoutStartSec = 300;
      TimeoutStopSec = 90;
      Restart = "always";
      RestartSec = 1;
      RestartSteps = 6;
      RestartMaxDelaySec = 60;
      RestartPreventExitStatus = 78;
      LimitNOFILE = 524288;
      RuntimeDirectory = lib.removePrefix "/run/" runDir;
      RuntimeDirectoryMode = "0755";
      RuntimeDirectoryPreserve = true;
      ReadWritePaths = [ dir ];

      AmbientCapabilities = "";
      CapabilityBoundingSet = "";
      DevicePolicy = "closed";
      InaccessiblePaths = [ "-/dev/shm" "-/dev/mqueue" "-/run/lock" ];
      KeyringMode = "private";
      LockPersonality = true;
      MemoryDenyWriteExecute = true;
      NoNewPrivileges = true;
      PrivateDevices = true;
      PrivateIPC = true;
      PrivateMounts = true;
      PrivateTmp = true;
      PrivateUsers = true;
      ProcSubset = "pid";
      ProtectClock = true;
      ProtectControlGroups = true;
      ProtectHome = true;
      ProtectHostname = true;
      ProtectKernelLogs = true;
      ProtectKernelModules = true;
      ProtectKernelTunables = true;
      ProtectProc = "invisible";
      ProtectSystem = "strict";
      RemoveIPC = true;
      RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
      RestrictNamespaces = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      SystemCallArchitectures = "native";
      SystemCallErrorNumber = "EPERM";
      SystemCallFilter = [ "@system-service" "~@privileged @resources" ];
    };
  };

  # journalctl -x explains the daemons' messages. The catalogue has to lie where systemd looks for it.
  catalogue = {
    systemd.tmpfiles.settings."10-cis490-catalogue"."/usr/local/lib/systemd/catalog/cis490.catalog"."L+".argument =
      "${../src/code/cis490.catalog}";
    systemd.services.cis490-catalogue = {
      description = "Message catalogue of cis490";
      wantedBy = [ "multi-user.target" ];
      after = [ "systemd-journal-catalog-update.service" ];
      restartTriggers = [ "${../src/code/cis490.catalog}" ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${pkgs.systemd}/bin/journalctl --update-catalog";
      };
    };
  };
}
