# The next version, by restarting the units, and changed settings, by reloading them.
{ next, ... }:
{
  nodes = {
    receiver = {
      services.cis490.receiver = {
        enable = true;
        openFirewall = true;
        settings.tls.names = [ "receiver" ];
      };
      environment.etc."next/cis490-receiver".source = "${next.cis490-receiver}/bin/cis490-receiver";
    };
    lab1 = {
      services.cis490.labHost = {
        enable = true;
        caFile = "/etc/cis490/ca.crt";
        settings.receiver.url = "https://receiver:8490";
      };
      environment.etc."next/cis490-shipper".source = "${next.cis490-shipper}/bin/cis490-shipper";
    };
  };
}
