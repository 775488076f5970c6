# A lab host. Copy this folder, change the three marked lines, put the receiver's CA into ca.crt, and switch to it.
{ lib, ... }:
{
  networking.hostName = "lab-01"; # 1: the receiver files the episodes under it

  services.cis490.labHost = {
    enable = true;
    caFile = ./ca.crt;
    settings.receiver.url = "https://receiver.example.org:8490"; # 2: the receiver
  };
  # Who may put data into the queue (cis490-episode seal) and ask the shipper (cis490-shipper status).
  users.users.researcher = {
    isNormalUser = true;
    extraGroups = [ "cis490" ];
    openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA… you@example.org" ]; # 3: yours
  };

  services.openssh.enable = true;
  services.timesyncd.enable = true; # a wrong clock holds the queue

  boot.loader.systemd-boot.enable = lib.mkDefault true;
  fileSystems."/" = lib.mkDefault { device = "/dev/disk/by-label/nixos"; fsType = "ext4"; };
  fileSystems."/boot" = lib.mkDefault { device = "/dev/disk/by-label/ESP"; fsType = "vfat"; };
  system.stateVersion = "26.05";
}
