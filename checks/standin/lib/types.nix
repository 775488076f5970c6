# The types of options: what a value must be, how several definitions become one, how the documentation names it.
{ lib }:
let
  inherit (builtins)
    all
    concatMap
    concatStringsSep
    elem
    filter
    head
    isAttrs
    isBool
    isFloat
    isInt
    isList
    isString
    length
    mapAttrs
    match
    substring
    tail
    ;
  inherit (lib) showOption;

  type =
    attrs:
    {
      _type = "option-type";
      description = attrs.name;
      descriptionClass = null;
      check = _: true;
      merge = mergeOne;
      emptyValue = { };
      getSubOptions = _: { };
      getSubModules = null;
    }
    // attrs;
  noun = name: description: attrs: type ({ inherit name description; descriptionClass = "noun"; } // attrs);

  # Brackets around a description that would be ambiguous where it stands.
  phrase = classes: t: if elem t.descriptionClass classes then t.description else "(${t.description})";

  files = defs: concatStringsSep " and " (map (def: "`${def.file}'") defs);
  conflict = loc: defs: throw "The option `${showOption loc}' has conflicting definition values in ${files defs}. Use `lib.mkForce value' or `lib.mkDefault value' to change the priority on any of these definitions.";
  mergeOne =
    loc: defs:
    if length defs == 1 then (head defs).value else throw "The option `${showOption loc}' is defined multiple times while it's expected to be unique, in ${files defs}.";
  mergeEqual =
    loc: defs:
    if all (def: def.value == (head defs).value) defs then (head defs).value else conflict loc defs;
  # What has no rule of its own: by what the values are.
  mergeDefault =
    loc: defs:
    let
      values = map (def: def.value) defs;
    in
    if length defs == 1 then
      head values
    else if all isList values then
      builtins.concatLists values
    else if all isAttrs values then
      lib.mergeAttrsList values
    else if all isBool values then
      builtins.any lib.id values
    else if all isString values then
      lib.concatStrings values
    else if all isInt values then
      mergeEqual loc defs
    else
      conflict loc defs;

  types = {
    raw = noun "raw" "raw value" { };
    unspecified = noun "unspecified" "unspecified value" { merge = mergeDefault; };
    anything = noun "anything" "anything" {
      merge =
        loc: defs:
        let
          kind = value: if isAttrs value && lib.isStringLike value then "string-like set" else builtins.typeOf value;
          kinds = lib.unique (map (def: kind def.value) defs);
        in
        if length kinds > 1 then
          throw "The option `${showOption loc}' has conflicting option types in ${files defs}"
        else if kinds == [ "set" ] then
          (types.attrsOf types.anything).merge loc defs
        else if kinds == [ "string-like set" ] then
          mergeOne loc defs
        else if kinds == [ "lambda" ] then
          arg: types.anything.merge loc (map (def: def // { value = def.value arg; }) defs)
        else
          mergeEqual loc defs;
    };

    bool = noun "bool" "boolean" { check = isBool; merge = mergeEqual; };
    int = noun "int" "signed integer" { check = isInt; merge = mergeEqual; };
    float = noun "float" "floating point number" { check = isFloat; merge = mergeEqual; };
    number = types.either types.int types.float;
    ints = {
      between =
        low: high:
        types.addCheck types.int (x: low <= x && x <= high)
        // {
          name = "intBetween";
          description = "integer between ${toString low} and ${toString high} (both inclusive)";
        };
      unsigned = types.addCheck types.int (x: x >= 0) // { name = "unsignedInt"; description = "unsigned integer, meaning >=0"; descriptionClass = "nonRestrictiveClause"; };
      positive = types.addCheck types.int (x: x > 0) // { name = "positiveInt"; description = "positive integer, meaning >0"; descriptionClass = "nonRestrictiveClause"; };
      u16 = types.ints.between 0 65535 // { name = "unsignedInt16"; description = "16 bit unsigned integer; between 0 and 65535 (both inclusive)"; };
    };
    port = types.ints.u16;

    str = noun "str" "string" { check = isString; merge = mergeEqual; };
    nonEmptyStr = noun "nonEmptyStr" "non-empty string" { check = x: isString x && match "[ \t\n]*" x == null; merge = mergeEqual; };
    singleLineStr = noun "singleLineStr" "(optionally newline-terminated) single-line string" {
      check = x: isString x && match "[^\n\r]*\n?" x != null;
      merge = loc: defs: lib.removeSuffix "\n" (mergeEqual loc defs);
    };
    strMatching =
      pattern:
      type {
        name = "strMatching ${builtins.toJSON pattern}";
        description = "string matching the pattern ${pattern}";
        descriptionClass = "noun";
        check = x: isString x && match pattern x != null;
        merge = mergeEqual;
      };
    separatedString =
      sep:
      noun "separatedString" "strings concatenated with ${builtins.toJSON sep}" {
        check = isString;
        merge = _: defs: concatStringsSep sep (map (def: def.value) defs);
      };
    lines = types.separatedString "\n";

    path = noun "path" "absolute path" { check = x: lib.isStringLike x && substring 0 1 (toString x) == "/"; merge = mergeEqual; };
    package = noun "package" "package" { check = x: lib.isDerivation x || lib.isStorePath x; };
    attrs = noun "attrs" "attribute set" {
      check = isAttrs;
      emptyValue.value = { };
      merge = _: defs: lib.mergeAttrsList (map (def: def.value) defs);
    };
    optionType = noun "optionType" "optionType" { check = x: x._type or null == "option-type"; };

    json =
      types.nullOr (
        types.oneOf [
          types.bool
          types.int
          types.float
          types.str
          types.path
          (types.attrsOf types.json)
          (types.listOf types.json)
        ]
      )
      // {
        description = "JSON value";
      };

    enum =
      values:
      let
        show = v: if isString v then ''"${v}"'' else if isBool v then lib.boolToString v else toString v;
      in
      type {
        name = "enum";
        description =
          if values == [ ] then
            "impossible (empty enum)"
          else if length values == 1 then
            "value ${show (head values)} (singular enum)"
          else
            "one of ${lib.concatMapStringsSep ", " show values}";
        descriptionClass = if length values < 2 then "noun" else "conjunction";
        check = x: elem x values;
        merge = mergeEqual;
      };

    listOf =
      t:
      type {
        name = "listOf";
        description = "list of ${phrase [ "noun" "composite" ] t}";
        descriptionClass = "composite";
        check = isList;
        emptyValue.value = [ ];
        getSubOptions = prefix: t.getSubOptions (prefix ++ [ "*" ]);
        inherit (t) getSubModules;
        # A conditional entry that does not hold is not there.
        merge =
          loc: defs:
          map (entry: entry.value) (
            filter (entry: entry.isDefined) (
              lib.flatten (
                lib.imap1 (
                  n: def:
                  lib.imap1 (
                    m: value:
                    lib.mergeDefinitions (loc ++ [ "[definition ${toString n}-entry ${toString m}]" ]) t [ { inherit (def) file; inherit value; } ]
                  ) def.value
                ) defs
              )
            )
          );
      };
    nonEmptyListOf =
      t:
      types.addCheck (types.listOf t) (xs: xs != [ ])
      // {
        description = "non-empty (list of ${phrase [ "noun" "composite" ] t})";
        emptyValue = { };
      };

    attrsOf = attrsWith false;
    lazyAttrsOf = attrsWith true;

    nullOr =
      t:
      type {
        name = "nullOr";
        description = "null or ${phrase [ "noun" "conjunction" ] t}";
        descriptionClass = "conjunction";
        check = x: x == null || t.check x;
        emptyValue.value = null;
        inherit (t) getSubOptions getSubModules;
        merge =
          loc: defs:
          let
            nulls = filter (def: def.value == null) defs;
          in
          if nulls == [ ] then
            t.merge loc defs
          else if length nulls == length defs then
            null
          else
            throw "The option `${showOption loc}` is defined both null and not null, in ${files defs}.";
      };

    either =
      a: b:
      type {
        name = "either";
        description =
          if a.descriptionClass == "nonRestrictiveClause" then
            "${a.description}, or ${phrase [ "noun" "conjunction" ] b}"
          else
            "${phrase [ "noun" "conjunction" ] a} or ${phrase [ "noun" "conjunction" "composite" ] b}";
        descriptionClass = "conjunction";
        check = x: a.check x || b.check x;
        merge =
          loc: defs:
          if all (def: a.check def.value) defs then
            a.merge loc defs
          else if all (def: b.check def.value) defs then
            b.merge loc defs
          else
            mergeOne loc defs;
      };
    oneOf = ts: builtins.foldl' types.either (head ts) (tail ts);

    coercedTo =
      from: convert: to:
      type {
        name = "coercedTo";
        description = "${phrase [ "noun" ] to} or ${phrase [ "noun" ] from} convertible to it";
        check = x: (from.check x && to.check (convert x)) || to.check x;
        inherit (to) emptyValue getSubOptions getSubModules;
        merge = loc: defs: to.merge loc (map (def: if from.check def.value then def // { value = convert def.value; } else def) defs);
      };

    addCheck = t: check: t // { check = x: t.check x && check x; };
    uniq = t: t // { name = "uniq"; merge = loc: defs: if length defs == 1 then t.merge loc defs else mergeOne loc defs; };
    functionTo =
      t:
      type {
        name = "functionTo";
        description = "function that evaluates to a(n) ${phrase [ "noun" "composite" ] t}";
        descriptionClass = "composite";
        check = lib.isFunction;
        merge = loc: defs: arg: (lib.mergeDefinitions (loc ++ [ "<function body>" ]) t (map (def: def // { value = def.value arg; }) defs)).value;
      };

    submodule =
      modules:
      types.submoduleWith {
        modules = lib.toList modules;
        shorthandOnlyDefinesConfig = true;
      };
    submoduleWith =
      {
        modules,
        specialArgs ? { },
        shorthandOnlyDefinesConfig ? false,
        description ? null,
      }:
      let
        base = lib.evalModules {
          inherit specialArgs;
          modules = [ { _module.args.name = lib.mkOptionDefault "‹name›"; } ] ++ modules;
        };
        docs = prefix: base.extendModules { inherit prefix; modules = [ { _module.check = lib.mkForce false; } ]; };
        free = (docs [ ])._module.freeformType;
      in
      type {
        name = "submodule";
        description =
          if description != null then
            description
          else if free == null then
            "submodule"
          else
            "open submodule of ${phrase [ "noun" "composite" ] free}";
        check = x: isAttrs x || lib.isFunction x || types.path.check x;
        emptyValue.value = base.config;
        getSubModules = modules;
        getSubOptions =
          prefix:
          removeAttrs (docs prefix).options [ "_module" ] // lib.optionalAttrs (free != null) { _freeformOptions = free.getSubOptions prefix; };
        merge =
          loc: defs:
          (base.extendModules {
            prefix = loc;
            modules = [
              { _module.args.name = lib.last loc; }
            ]
            ++ map (
              def:
              if shorthandOnlyDefinesConfig && isAttrs def.value then
                {
                  _file = def.file;
                  config = def.value;
                }
              else
                {
                  _file = def.file;
                  imports = [ def.value ];
                }
            ) defs;
          }).config;
      };
  };

  attrsWith =
    lazy: t:
    type {
      name = if lazy then "lazyAttrsOf" else "attrsOf";
      description = "${if lazy then "lazy " else ""}attribute set of ${phrase [ "noun" "composite" ] t}";
      descriptionClass = "composite";
      check = isAttrs;
      emptyValue.value = { };
      getSubOptions = prefix: t.getSubOptions (prefix ++ [ "<name>" ]);
      inherit (t) getSubModules;
      merge =
        loc: defs:
        let
          merged = mapAttrs (name: lib.mergeDefinitions (loc ++ [ name ]) t) (
            builtins.zipAttrsWith (_: xs: xs) (
              concatMap (
                def: map (mapAttrs (_: value: { inherit (def) file; inherit value; })) (lib.pushDownProperties def.value)
              ) defs
            )
          );
        in
        # Of an attribute that no condition lets stand, the lazy one keeps the name.
        mapAttrs (_: entry: entry.value) (if lazy then merged else lib.filterAttrs (_: entry: entry.isDefined) merged);
    };
in
types
