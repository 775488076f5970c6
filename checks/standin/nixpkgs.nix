# What the stand-in gives in the place of nixpkgs, on a lib: its own (./lib), or the real one to compare with.
base:
let
  lib = base // {
    nixosSystem = import ./nixos.nix { inherit lib legacyPackages; };
  };
  legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: import ./pkgs.nix { inherit lib system; });
in
{
  inherit lib legacyPackages;
}
