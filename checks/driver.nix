# The test driver itself: what its calls do, under NixOS and under the stand-in.
{
  nodes = {
    one = { };
    two = { pkgs, ... }: {
      environment.systemPackages = [ pkgs.python3 ];
      networking.firewall.allowedTCPPorts = [ 7000 ];
    };
  };
}
