# A stand-in for nixpkgs, for machines that can't reach it: what this project uses of it, so that all outputs of the flake are evaluated and
# built. README.md in checks/ says what it can't show. checks/nix puts it in the place of nixpkgs.
{
  description = "stand-in for nixpkgs";
  outputs =
    _:
    let
      lib = import ./lib // {
        nixosSystem = import ./nixos.nix { inherit lib legacyPackages; };
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: import ./pkgs.nix { inherit lib system; });
    in
    {
      inherit lib legacyPackages;
    };
}
