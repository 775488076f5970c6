# OPTIONS.md: every option under services.cis490, from the modules themselves.
{ lib, pkgs, nixosModules }:
let
  system = lib.nixosSystem {
    modules = [ nixosModules.default { nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system; } ];
  };
  show = value:
    if value ? _type && value._type == "literalExpression" then "`${value.text}`"
    else if value ? _type && value._type == "literalMD" then value.text
    else "`${lib.generators.toPretty { multiline = false; } value}`";
  described = option: if option.description == null then throw "${option.name} has no description" else option.description;
  describe = option: ''
    ## ${lib.replaceStrings [ "<" ">" ] [ "\\<" "\\>" ] option.name}

    ${lib.trim (lib.replaceStrings [ "{option}" "{file}" ] [ "" "" ] (described option))}

    - type: ${option.type}
    ${lib.optionalString (option ? default) "- default: ${show option.default}\n"}${lib.optionalString (option ? example) "- example: ${show option.example}\n"}'';
  options = lib.filter (option: option.visible && !option.internal) (lib.optionAttrSetToDocList system.options.services.cis490);
in
pkgs.writeText "OPTIONS.md" ''
  # Options

  Generated from the modules; to write it anew: `nix build .#options-doc && cp result modules/OPTIONS.md`. Those below `settings` have the
  names, defaults and bounds of the configuration files ([lab-host.hcl](../src/config/lab-host.hcl), [receiver.hcl](../src/config/receiver.hcl)).

  ${lib.concatMapStringsSep "\n" describe options}''
