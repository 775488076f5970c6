# The doctor, for hosts of either kind. Imported by shipper.nix and receiver.nix, which install it.
{ lib, pkgs, ... }:
{
  options.services.cis490.doctor.package = lib.mkPackageOption pkgs "cis490-doctor" { };
}
