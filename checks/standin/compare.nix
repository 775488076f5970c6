# Which of cases.nix do not give the same with the stand-in's lib and with the real one, in the folder lib of a checkout: nix-community/nixpkgs.lib
{ real }:
let
  result =
    lib:
    builtins.mapAttrs (
      _: value:
      let
        tried = builtins.tryEval (builtins.toJSON value);
      in
      if tried.success then tried.value else "refused"
    ) (import ./cases.nix lib);
  ours = result (import ./lib);
  theirs = result (import (real + "/lib"));
  names = builtins.attrNames ours;
in
{
  count = builtins.length names;
  refused = builtins.length (builtins.filter (name: theirs.${name} == "refused") names);
  different = map (name: { inherit name; standin = ours.${name}; real = theirs.${name}; }) (builtins.filter (name: ours.${name} != theirs.${name}) names);
}
