# What does not come out the same with the stand-in's lib and with the real one, in the folder lib of a checkout of nix-community/nixpkgs.lib:
# the cases of cases.nix; whether each of ../mistakes.nix gets through evaluation; and the derivations of both hosts, of the units and of
# OPTIONS.md, which are everything that the modules say.
{ real }:
let
  result =
    lib:
    let
      outputs = import ./outputs.nix { inherit lib; };
      hosts = builtins.mapAttrs (_: host: host.config.system.build.toplevel.drvPath) outputs.nixosConfigurations;
      packages = builtins.mapAttrs (_: package: package.drvPath) { inherit (outputs.packages.x86_64-linux) units options-doc; };
      mistakes = builtins.mapAttrs (_: host: builtins.substring 0 0 host.drvPath) (import ../mistakes.nix { inherit lib; }).build;
      named = prefix: set: builtins.listToAttrs (map (name: { name = "${prefix} ${name}"; value = set.${name}; }) (builtins.attrNames set));
    in
    builtins.mapAttrs (
      _: value:
      let
        tried = builtins.tryEval (builtins.toJSON value);
      in
      if tried.success then tried.value else "refused"
    ) (named "case" (import ./cases.nix lib) // named "mistake" mistakes // named "derivation" (hosts // packages));
  ours = result (import ./lib);
  theirs = result (import (real + "/lib"));
  names = builtins.attrNames ours;
in
{
  count = builtins.length names;
  refused = builtins.length (builtins.filter (name: theirs.${name} == "refused") names);
  different = map (name: { inherit name; standin = ours.${name}; real = theirs.${name}; }) (builtins.filter (name: ours.${name} != theirs.${name}) names);
}
