# What systemd does when the daemons end: crashes, configuration errors, stops.
{ lib, ... }:
let
  # The delays between restarts, a hundredth as long; all else of the units as it is.
  soon = name: {
    systemd.services.${name}.serviceConfig = {
      RestartSec = lib.mkForce "10ms";
      RestartMaxDelaySec = lib.mkForce "100ms";
    };
  };
in
{
  nodes = {
    receiver = {
      imports = [ (soon "cis490-receiver") ];
      services.cis490.receiver = {
        enable = true;
        openFirewall = true;
        settings.tls.names = [ "receiver" ];
      };
    };
    lab1 = {
      imports = [ (soon "cis490-shipper") ];
      services.cis490.labHost = {
        enable = true;
        caFile = "/etc/cis490/ca.crt";
        settings.receiver.url = "https://receiver:8490";
      };
      services.cis490.shipper.settings.stop_timeout = "5s";
    };
  };
}
