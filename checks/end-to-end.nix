# A receiver and two lab hosts, and what happens to machines and networks between them.
let
  labHost = { pkgs, ... }: {
    services.cis490 = {
      labHost = {
        enable = true;
        caFile = "/etc/cis490/ca.crt";
        settings.receiver.url = "https://receiver:8490";
        settings.min_free = "1MiB";
      };
      shipper.settings = { connect_timeout = "2s"; stall_timeout = "5s"; response_timeout = "10s"; backoff_max = "3s"; };
    };
    environment.systemPackages = [ pkgs.nftables ];
    users.users.researcher = { isNormalUser = true; extraGroups = [ "cis490" ]; };
  };
in
{
  nodes = {
    receiver = { pkgs, ... }: {
      services.cis490.receiver = {
        enable = true;
        openFirewall = true;
        settings = {
          tls.names = [ "receiver" ];
          limits = { stall_timeout = "5s"; min_free = "0B"; };
        };
      };
      environment.systemPackages = [ pkgs.nftables pkgs.zstd ];
    };
    lab1 = labHost;
    lab2 = labHost;
  };
}
