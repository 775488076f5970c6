# What nix flake check builds, beside the packages.
{ lib, pkgs, packages, nixosModules }:
{
  inherit (packages) default units;

  options = pkgs.runCommand "options-are-documented" { } ''
    diff -u ${../modules/OPTIONS.md} ${packages.options-doc} || {
      echo "modules/OPTIONS.md is out of date: nix build .#options-doc && cp result modules/OPTIONS.md" >&2
      exit 1
    }
    touch $out
  '';

  # The units as systemd reads them. Exposure is what systemd-analyze security gives, times ten.
  units-are-sound = pkgs.runCommand "units-are-sound" { nativeBuildInputs = [ pkgs.systemd ]; } ''
    mkdir -p /run/systemd root # systemd-analyze makes a directory of its own there
    cd root
    mkdir -p usr/local/bin usr/bin usr/lib/systemd/system
    cp ${packages.units}/bin/* usr/local/bin/
    touch usr/bin/kill; chmod +x usr/bin/kill
    for unit in ${packages.units}/lib/systemd/system/*.service; do
      cp $unit usr/lib/systemd/system/
      systemd-analyze --root=$PWD verify --man=no --recursive-errors=no ''${unit##*/}
      systemd-analyze security --offline=true --threshold=12 --no-pager $unit
    done | tee $out
  '';
}
