# The module system: evalModules and the properties of definitions (mkIf, mkMerge, mkOverride, mkOrder).
{ lib }:
let
  inherit (builtins)
    addErrorContext
    all
    attrNames
    concatMap
    concatStringsSep
    filter
    foldl'
    head
    isAttrs
    isBool
    isList
    isPath
    isString
    length
    mapAttrs
    tail
    toJSON
    ;
  inherit (lib) showOption;

  unknown = "<unknown-file>";
  priorities = {
    optionDefault = 1500;
    default = 1000;
    plain = 100;
    force = 50;
  };
  defaultOrder = 1000;

  # A value as it stands in an error, as far as it can be shown.
  show =
    value:
    if isAttrs value then
      if lib.isDerivation value then "a derivation" else "{ ${concatStringsSep ", " (attrNames value)} }"
    else if isList value then
      "a list"
    else if lib.isFunction value then
      "a function"
    else
      toJSON value;
  showDefs = defs: concatStringsSep "" (map (def: "\n- In `${def.file}': ${show def.value}") defs);

  # Properties on a set of definitions move to each of them, so that the set's names are known without its conditions.
  pushDown =
    value:
    let
      type = value._type or null;
    in
    if type == "merge" then
      concatMap pushDown value.contents
    else if type == "if" then
      map (mapAttrs (_: lib.mkIf value.condition)) (pushDown value.content)
    else if type == "override" then
      map (mapAttrs (_: lib.mkOverride value.priority)) (pushDown value.content)
    else
      [ value ];

  # The definitions that hold, without conditions.
  discharge =
    value:
    let
      type = value._type or null;
    in
    if type == "merge" then
      concatMap discharge value.contents
    else if type == "if" then
      if !isBool value.condition then
        throw "mkIf called with a non-Boolean condition"
      else if value.condition then
        discharge value.content
      else
        [ ]
    else
      [ value ];

  # Definitions of one option: those that hold, those of the highest priority, in their order.
  finalDefs =
    defs:
    let
      holding = concatMap (def: map (value: def // { inherit value; }) (discharge def.value)) defs;
      priority = def: if def.value._type or null == "override" then def.value.priority else priorities.plain;
      highestPrio = foldl' (least: def: lib.min least (priority def)) 9999 holding;
      strip = def: if def.value._type or null == "override" then def // { value = def.value.content; } else def;
      winning = map strip (filter (def: priority def == highestPrio) holding);
      order = def: if def.value._type or null == "order" then def.value.priority else defaultOrder;
      plain = def: if def.value._type or null == "order" then def // { value = def.value.content; } else def;
    in
    {
      inherit highestPrio;
      defs = map plain (lib.sortOn order winning);
    };

  # loc type defs -> { defs, highestPrio, isDefined, value }: the type checks each definition and merges them.
  mergeDefinitions =
    loc: type: allDefs:
    let
      final = finalDefs allDefs;
      inherit (final) defs;
      wrong = filter (def: !type.check def.value) defs;
      isDefined = defs != [ ];
    in
    {
      inherit defs isDefined;
      inherit (final) highestPrio;
      value =
        if isDefined then
          if wrong == [ ] then
            type.merge loc defs
          else
            throw "A definition for option `${showOption loc}' is not of type `${type.description}'. Definition values:${showDefs wrong}"
        else if type.emptyValue ? value then
          type.emptyValue.value
        else
          throw "The option `${showOption loc}' was accessed but has no value defined. Try setting the option.";
    };

  # One declared option with its definitions.
  evalOption =
    loc: decl: given:
    let
      opt = {
        type = lib.types.unspecified;
      }
      // decl.option;
      default = lib.optional (opt ? default) {
        inherit (decl) file;
        value = lib.mkOptionDefault opt.default;
      };
      merged =
        if opt.readOnly or false && length (default ++ given) > 1 then
          throw "The option `${showOption loc}' is read-only, but it's set multiple times. Definition values:${showDefs given}"
        else
          mergeDefinitions loc opt.type (default ++ given);
    in
    opt
    // {
      inherit loc;
      inherit (merged) isDefined highestPrio;
      _type = "option";
      declarations = [ decl.file ];
      definitions = map (def: def.value) merged.defs;
      definitionsWithLocations = merged.defs;
      files = map (def: def.file) merged.defs;
      value = addErrorContext "while evaluating the option `${showOption loc}':" ((opt.apply or lib.id) merged.value);
      __toString = _: showOption loc;
    };

  # A tree of declarations with the definitions below the same place -> { options, config, unmatched }.
  mergeTree =
    prefix: decls: defs:
    let
      declsBy = builtins.zipAttrsWith (_: xs: xs) (
        map (decl: mapAttrs (_: option: { inherit (decl) file; inherit option; }) decl.options) decls
      );
      defsBy = builtins.zipAttrsWith (_: xs: xs) (
        concatMap (
          def:
          map (
            values:
            if isAttrs values then
              mapAttrs (_: value: { inherit (def) file; inherit value; }) values
            else
              throw "The option `${showOption prefix}' is a set of options, but `${def.file}' sets it to ${show values}"
          ) (pushDown def.value)
        ) defs
      );
      branches = mapAttrs (
        name: here:
        let
          loc = prefix ++ [ name ];
          given = defsBy.${name} or [ ];
          options = filter (decl: lib.isOption decl.option) here;
        in
        if options == [ ] then
          mergeTree loc (map (decl: { inherit (decl) file; options = decl.option; }) here) given
        else if length here == 1 then
          let
            opt = evalOption loc (head here) given;
          in
          {
            options = opt;
            config = opt.value;
            unmatched = [ ];
          }
        else
          throw "The option `${showOption loc}' in `${(head here).file}' is already declared in ${
            concatStringsSep " and " (map (decl: "`${decl.file}'") (tail here))
          }. (The stand-in merges no two declarations.)"
      ) declsBy;
    in
    {
      options = mapAttrs (_: branch: branch.options) branches;
      config = mapAttrs (_: branch: branch.config) branches;
      unmatched =
        concatMap (branch: branch.unmatched) (builtins.attrValues branches)
        ++ concatMap (
          name: map (def: def // { loc = prefix ++ [ name ]; }) defsBy.${name}
        ) (filter (name: !declsBy ? ${name}) (attrNames defsBy));
    };

  # A module as written -> { _file, key, imports, options, config }.
  normal =
    file: key: m:
    let
      special = [
        "_class"
        "_file"
        "key"
        "imports"
        "options"
        "config"
        "freeformType"
        "meta"
      ];
      rest = removeAttrs m special;
      long = m ? options || m ? config;
      freeform = lib.optional (m ? freeformType) { _module.freeformType = m.freeformType; };
      body = if long then m.config or { } else rest // lib.optionalAttrs (m ? meta) { inherit (m) meta; };
    in
    if long && rest != { } then
      throw "Module `${file}' has an unsupported attribute `${head (attrNames rest)}'. This is caused by introducing a top-level `config' or `options' attribute. Add configuration attributes immediately on the top level instead, or move all of them into the explicit `config' attribute."
    else
      {
        file = toString (m._file or file);
        key = toString (m.key or key);
        imports = m.imports or [ ];
        options = m.options or { };
        config = if freeform == [ ] then body else lib.mkMerge (freeform ++ [ body ]);
      };

  # Every module that the given ones import, each once.
  collectModules =
    args: modules:
    let
      load =
        parent: n: m:
        let
          isFile = isPath m || isString m;
          file = if isFile then toString m else parent.file;
          key = if isFile then toString m else "${parent.key}:anon-${toString n}";
          value = if isFile then import m else m;
          apply =
            f:
            f (
              args
              // mapAttrs (
                name: _: addErrorContext "while evaluating the module argument `${name}' in \"${file}\":" (args.${name} or args.config._module.args.${name})
              ) (lib.functionArgs f)
            );
        in
        if isList m then
          throw "Module imports can't be nested lists. Perhaps you meant to remove one level of lists?"
        else if isAttrs m && m._type or "module" != "module" then
          throw "Expected a module, but found a value of type \"${m._type}\" in ${file}"
        else if lib.isFunction value then
          normal file key (apply value)
        else if isAttrs value then
          normal file key value
        else
          throw "Expected a module in ${file}, but found ${show value}";
      loadAll = parent: lib.imap1 (load parent);
    in
    # Breadth first, then backwards: lists of several modules come out in that order.
    lib.reverseList (
      builtins.genericClosure {
        startSet = loadAll { file = unknown; key = ""; } modules;
        operator = m: loadAll m m.imports;
      }
    );

  # The options that every evaluation has.
  internal = {
    _file = "<the module system>";
    options._module = {
      args = lib.mkOption {
        type = lib.types.lazyAttrsOf lib.types.raw;
        internal = true;
        default = { };
      };
      check = lib.mkOption {
        type = lib.types.bool;
        internal = true;
        default = true;
      };
      freeformType = lib.mkOption {
        type = lib.types.nullOr lib.types.optionType;
        internal = true;
        default = null;
      };
    };
  };
in
{
  inherit mergeDefinitions;
  pushDownProperties = pushDown;

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
      class ? null,
    }@given:
    let
      args = {
        inherit
          lib
          config
          options
          specialArgs
          ;
        _class = class;
        _prefix = prefix;
      }
      // specialArgs;
      all = collectModules args ([ internal ] ++ modules);
      merged = mergeTree prefix (map (m: { inherit (m) file options; }) all) (
        map (m: {
          inherit (m) file;
          value = m.config;
        }) all
      );
      inherit (merged.config) _module;
      # The options that nobody declared go to the free-form type, if there is one.
      free = map (def: {
        inherit (def) file;
        value = lib.setAttrByPath (lib.drop (length prefix) def.loc) def.value;
      }) merged.unmatched;
      config =
        if _module.freeformType == null || free == [ ] then
          merged.config
        else
          lib.recursiveUpdate (_module.freeformType.merge prefix free) merged.config;
      checked =
        if _module.check && _module.freeformType == null && merged.unmatched != [ ] then
          let
            first = head merged.unmatched;
          in
          throw "The option `${showOption first.loc}' does not exist. Definition values:${showDefs [ first ]}"
        else
          x: x;
      inherit (merged) options;
    in
    {
      _type = "configuration";
      inherit _module class;
      config = checked (removeAttrs config [ "_module" ]);
      options = checked options;
      extendModules =
        {
          modules ? [ ],
          specialArgs ? { },
          prefix ? [ ],
        }@more:
        lib.evalModules {
          inherit class;
          modules = given.modules ++ modules;
          specialArgs = given.specialArgs or { } // specialArgs;
          prefix = more.prefix or given.prefix or [ ];
        };
    };

  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkOptionDefault = lib.mkOverride priorities.optionDefault;
  mkDefault = lib.mkOverride priorities.default;
  mkForce = lib.mkOverride priorities.force;
  mkOrder = priority: content: { _type = "order"; inherit priority content; };
  mkBefore = lib.mkOrder 500;
  mkAfter = lib.mkOrder 1500;
}
