# Options: declaring them, and listing them for the documentation.
{ lib }:
let
  inherit (builtins)
    concatStringsSep
    filter
    isBool
    match
    toJSON
    ;
in
{
  mkOption = option: option // { _type = "option"; };
  isOption = x: x._type or null == "option";
  literalExpression = text: { _type = "literalExpression"; inherit text; };
  literalMD = text: { _type = "literalMD"; inherit text; };

  mkEnableOption =
    what:
    lib.mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${what}.";
    };

  mkPackageOption =
    pkgs: name:
    {
      default ? name,
      example ? null,
      extraDescription ? "",
      nullable ? false,
      pkgsText ? "pkgs",
    }:
    let
      path = lib.toList default;
      expression = "${pkgsText}.${concatStringsSep "." path}";
    in
    lib.mkOption (
      {
        type = if nullable then lib.types.nullOr lib.types.package else lib.types.package;
        description = "The ${if builtins.isList name then lib.last name else name} package to use.${if extraDescription == "" then "" else " ${extraDescription}"}";
      }
      // lib.optionalAttrs (default != null) {
        default = lib.attrByPath path (throw "${expression} cannot be found") pkgs;
        defaultText = lib.literalExpression expression;
      }
      // lib.optionalAttrs (example != null) {
        example = lib.literalExpression (if builtins.isList example then "${pkgsText}.${concatStringsSep "." example}" else example);
      }
    );

  showOption =
    let
      part = s: if match "[a-zA-Z_][a-zA-Z0-9_'-]*|\\*|<.*>|‹.*›" s != null then s else toJSON s;
    in
    loc: concatStringsSep "." (map part loc);

  # Every option below a tree of options, with those of submodules, as the manual's generator gets them.
  optionAttrSetToDocList =
    options:
    lib.concatMap (
      opt:
      let
        visible = opt.visible or true;
        render = value: if value ? _type && value ? text then value else lib.literalExpression (lib.generators.toPretty { } value);
        sub = opt.type.getSubOptions opt.loc;
      in
      [
        (
          {
            inherit (opt) loc;
            name = lib.showOption opt.loc;
            description = opt.description or null;
            declarations = filter (file: file != "<unknown-file>") opt.declarations;
            internal = opt.internal or false;
            visible = if isBool visible then visible else visible == "shallow";
            readOnly = opt.readOnly or false;
            type = opt.type.description or "unspecified";
          }
          // lib.optionalAttrs (opt ? example) { example = render opt.example; }
          // lib.optionalAttrs (opt ? defaultText || opt ? default) { default = render (opt.defaultText or opt.default); }
        )
      ]
      ++ lib.optionals (if isBool visible then visible else visible == "transparent") (lib.optionAttrSetToDocList sub)
    ) (lib.collect lib.isOption options);
}
