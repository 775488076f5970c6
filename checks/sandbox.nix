# What a daemon that somebody took over could do: sandbox/probe.py runs in its place, in the unit as generated, and tries.
let
  probe = { pkgs, ... }: {
    environment.etc."probe.py".source = ./sandbox/probe.py;
    environment.systemPackages = [ pkgs.python3 ];
    # Somebody else's.
    users.users.researcher = { isNormalUser = true; };
    systemd.services.neighbour = {
      description = "A service of somebody else";
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${pkgs.coreutils}/bin/sleep infinity";
    };
  };
in
{
  nodes = {
    receiver = {
      imports = [ probe ];
      services.cis490.receiver = {
        enable = true;
        openFirewall = true;
        settings.tls.names = [ "receiver" ];
      };
    };
    lab1 = {
      imports = [ probe ];
      services.cis490.labHost = {
        enable = true;
        caFile = "/etc/cis490/ca.crt";
        settings.receiver.url = "https://receiver:8490";
      };
    };
  };
}
