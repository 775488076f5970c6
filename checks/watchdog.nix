# The watchdog of both daemons, ten seconds instead of the units' three minutes. The data of lab1 and of the receiver is on a disk of its own,
# which can be frozen.
let
  disk = { virtualisation.emptyDiskImages = [ 2048 ]; };
  labHost = {
    services.cis490 = {
      labHost = {
        enable = true;
        caFile = "/etc/cis490/ca.crt";
        settings.receiver.url = "https://receiver:8490";
      };
      shipper = {
        watchdogSec = 10;
        # A worker's deadline is 30 s more than the longest of these, the first one doubled.
        settings = { connect_timeout = "2s"; stall_timeout = "5s"; response_timeout = "5s"; };
      };
    };
  };
in
{
  nodes = {
    receiver = { pkgs, ... }: {
      imports = [ disk ];
      services.cis490.receiver = {
        enable = true;
        openFirewall = true;
        watchdogSec = 10;
        settings.tls.names = [ "receiver" ];
      };
      environment.etc."backlog.py".source = ./watchdog/backlog.py;
      environment.systemPackages = [ pkgs.e2fsprogs pkgs.python3 ];
    };
    lab1 = { pkgs, ... }: {
      imports = [ labHost disk ];
      environment.systemPackages = [ pkgs.e2fsprogs pkgs.nftables ];
    };
    lab2.imports = [ labHost ];
  };
}
