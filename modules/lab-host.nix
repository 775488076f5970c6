# A lab host: the configuration that its programs share, its queue, and all of its daemons at once.
{ config, options, lib, pkgs, ... }:
let
  cis490 = import ./common.nix { inherit lib pkgs; };
  cfg = config.services.cis490.labHost;
  shipper = config.services.cis490.shipper;
  block = cis490.blocks.lab-host;

  file = cis490.configFile {
    name = "lab-host.hcl.json";
    settings = cfg.settings // {
      receiver = cfg.settings.receiver // { ca_file = cfg.caFile; };
      shipper = shipper.settings // { watchdog_sec = shipper.watchdogSec; };
    };
    # A CA in the store can be looked at here; one that will only be on the host can't.
    check = "${lib.getExe shipper.package} check-config"
      + lib.optionalString (cfg.caFile == null || !cis490.isInStore cfg.caFile) " --no-files";
    options = "services.cis490.labHost.settings, services.cis490.labHost.caFile and services.cis490.shipper.settings";
  };

  # Whoever is in the group may seal: episodes get the group of the directories that they are made in (set-group-ID).
  dir = mode: { d = { inherit mode; user = "cis490-shipper"; group = "cis490"; }; };
  tree = {
    "${cfg.settings.data_dir}" = dir "0750";
    "${cfg.settings.data_dir}/identity" = dir "0700";
  } // lib.genAttrs (map (d: "${cfg.settings.data_dir}/${d}") [ "open" "sealed" ".removing" ]) (_: dir "2770")
    // lib.genAttrs (map (d: "${cfg.settings.data_dir}/${d}") [ "shipped" "quarantine" "receipts" "uploads" ]) (_: dir "0750");
in
{
  imports = [ ./shipper.nix ];

  options.services.cis490.labHost = {
    enable = lib.mkEnableOption "all daemons of a lab host";
    package = lib.mkPackageOption pkgs "cis490-episode" { };
    caFile = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      defaultText = lib.literalMD "none: it has to be set";
      example = lib.literalExpression "./ca.crt";
      description = ''
        Certificate of the CA that issued the receiver's, PEM: the file `ca/ca.crt` in the receiver's `state_dir`. It is
        public and may lie in the store. `null` trusts the authorities that this machine trusts.
      '';
    };
    settings = cis490.settingsOption (block // {
      doc = ''
        What the programs of a lab host share: /etc/cis490/lab-host.hcl.json. Settings of one daemon are its own, as in
        {option}`services.cis490.shipper.settings`; the receiver's CA is {option}`services.cis490.labHost.caFile`.
      '';
      blocks.receiver = block.blocks.receiver // { attrs = removeAttrs block.blocks.receiver.attrs [ "ca_file" ]; };
    });
    configFile = lib.mkOption {
      type = lib.types.package;
      readOnly = true;
      default = file;
      defaultText = lib.literalMD "made from the settings, and checked";
      description = "The configuration file.";
    };
  };

  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      services.cis490.shipper.enable = lib.mkDefault true;
      environment.systemPackages = [ cfg.package ]; # to put data into the queue
    })

    (lib.mkIf shipper.enable {
      assertions = [
        {
          assertion = lib.hasPrefix "/run/" cfg.settings.run_dir;
          message = "services.cis490.labHost.settings.run_dir has to be below /run, which is made anew at each boot: set it to \"/run/cis490\".";
        }
        {
          assertion = options.services.cis490.labHost.caFile.isDefined;
          message = "services.cis490.labHost.caFile is not set: set it to a copy of the receiver's ca/ca.crt, or to null for the authorities that this machine trusts.";
        }
        {
          assertion = !(builtins.isPath cfg.caFile) || builtins.pathExists cfg.caFile;
          message = "services.cis490.labHost.caFile, ${toString cfg.caFile}, is not there: copy it from the receiver, whose ca/ca.crt it is.";
        }
      ];
      environment.etc."cis490/lab-host.hcl.json".source = cfg.configFile;
      systemd.tmpfiles.settings."10-cis490" = tree;
      users.groups.cis490 = { };
      users.users.cis490-shipper = {
        isSystemUser = true;
        group = "cis490";
        description = "Ships sealed episodes";
      };
    })
  ];
}
