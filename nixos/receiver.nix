# The receiver. Copy this folder, change the three marked lines, and switch to it.
{ lib, ... }:
{
  networking.hostName = "receiver";

  services.cis490.receiver = {
    enable = true;
    openFirewall = true;
    settings = {
      tls.names = [ "receiver.example.org" ]; # 1: the names by which lab hosts reach it
      # 2: the hosts that may send, each by its key: cis490-shipper status shows it there. Others can be let in at run time with
      # cis490-receiver hosts allow.
      host.lab-01.key = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    };
  };
  # Who may list, read and verify what is stored, allow and revoke hosts.
  users.users.keeper = {
    isNormalUser = true;
    extraGroups = [ "cis490-receiver" ];
    openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA… you@example.org" ]; # 3: yours
  };

  services.openssh.enable = true;
  services.timesyncd.enable = true; # its clock judges those of the hosts

  boot.loader.systemd-boot.enable = lib.mkDefault true;
  fileSystems."/" = lib.mkDefault { device = "/dev/disk/by-label/nixos"; fsType = "ext4"; };
  fileSystems."/boot" = lib.mkDefault { device = "/dev/disk/by-label/ESP"; fsType = "vfat"; };
  system.stateVersion = "26.05";
}
