# cis490-shipper.service: ships the sealed episodes of a lab host. Imported by lab-host.nix, whose file and queue it uses.
{ config, lib, pkgs, ... }:
let
  cis490 = import ./common.nix { inherit lib pkgs; };
  cfg = config.services.cis490.shipper;
  host = config.services.cis490.labHost;
  block = cis490.blocks.lab-host.blocks.shipper;
in
{
  imports = [ ./doctor.nix ];

  options.services.cis490.shipper = cis490.daemonOptions "cis490-shipper" // {
    settings = cis490.settingsOption (block // {
      doc = "How the shipper works: the block `shipper` of /etc/cis490/lab-host.hcl.json. Its `watchdog_sec` is {option}`services.cis490.shipper.watchdogSec`.";
      attrs = removeAttrs block.attrs [ "watchdog_sec" ];
    });
  };

  config = lib.mkIf cfg.enable (lib.mkMerge [
    {
      services.cis490.shipper.settings.metrics_listen = lib.mkIf cfg.metrics.enable (lib.mkDefault "127.0.0.1:9490");
      environment.systemPackages = [ cfg.package config.services.cis490.doctor.package ];
      systemd.services.cis490-shipper = cis490.service {
        inherit cfg;
        name = "cis490-shipper";
        command = "run";
        description = "Ship sealed episodes to the receiver";
        config = "/etc/cis490/lab-host.hcl.json";
        user = "cis490-shipper";
        group = "cis490";
        dir = host.settings.data_dir;
        runDir = "${host.settings.run_dir}/cis490-shipper";
        reload = [ host.configFile ];
        # The unit itself names data_dir and run_dir: it changes with them, and is restarted.
        restart = [ ];
      };
    }
    cis490.catalogue
  ]);
}
