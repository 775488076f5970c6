# A stand-in for nixpkgs, for machines that can't reach it: what this project uses of it, so that all outputs of the flake are evaluated and
# built. README.md in checks/ says what it can't show. checks/nix puts it in the place of nixpkgs.
{
  description = "stand-in for nixpkgs";
  outputs = _: import ./nixpkgs.nix (import ./lib);
}
