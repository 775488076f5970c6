# The outputs of the flake in this tree, on the stand-in, for nix build -f and nix eval -f: as checks/nix gives them by the flake's name, but
# without bringing the tree into the store first. version: as the flake has it, so that its builds are used.
{ version ? "19700101.devel", lib ? import ./lib }:
let
  nixpkgs = import ./nixpkgs.nix lib;
  outputs = (import ../../flake.nix).outputs { inherit self nixpkgs; };
  self = outputs // {
    inherit outputs;
    outPath = toString ../..;
    lastModifiedDate = builtins.substring 0 8 version;
    shortRev = builtins.substring 9 (-1) version;
  };
in
outputs
