# What the project uses of nixpkgs' lib, and no more. Names, arguments and results are those of nixpkgs (checks/standin/cases compares
# them with the real one); the code is this project's own.
let
  inherit (builtins)
    attrNames
    attrValues
    concatMap
    concatStringsSep
    elemAt
    filter
    foldl'
    genList
    head
    isAttrs
    isList
    isString
    length
    listToAttrs
    mapAttrs
    match
    replaceStrings
    stringLength
    substring
    tail
    toJSON
    ;

  trivial = {
    id = x: x;
    const = x: _: x;
    min = a: b: if a < b then a else b;
    max = a: b: if a > b then a else b;
    boolToString = b: if b then "true" else "false";
    importJSON = path: builtins.fromJSON (builtins.readFile path);
    warn = message: builtins.trace "warning: ${message}";
    isFunction = f: builtins.isFunction f || (f ? __functor && builtins.isFunction (f.__functor f));
    functionArgs = f: if f ? __functor then f.__functionArgs or (lib.functionArgs (f.__functor f)) else builtins.functionArgs f;
    fix =
      f:
      let
        x = f x;
      in
      x;
    toList = x: if isList x then x else [ x ];
    isDerivation = x: x.type or null == "derivation";
  };

  lists = {
    optional = condition: x: if condition then [ x ] else [ ];
    optionals = condition: xs: if condition then xs else [ ];
    last = xs: if xs == [ ] then throw "lib.last of an empty list" else elemAt xs (length xs - 1);
    init = xs: lib.take (length xs - 1) xs;
    take = n: xs: genList (elemAt xs) (lib.min n (length xs));
    drop = n: xs: genList (i: elemAt xs (i + n)) (lib.max 0 (length xs - n));
    flatten = x: if isList x then concatMap lib.flatten x else [ x ];
    imap0 = f: xs: genList (i: f i (elemAt xs i)) (length xs);
    imap1 = f: lib.imap0 (i: f (i + 1));
    range = a: b: genList (i: a + i) (lib.max 0 (b - a + 1));
    unique = foldl' (seen: x: if builtins.elem x seen then seen else seen ++ [ x ]) [ ];
    foldr =
      f: zero: xs:
      if xs == [ ] then zero else f (head xs) (lib.foldr f zero (tail xs));
    reverseList = xs: genList (i: elemAt xs (length xs - 1 - i)) (length xs);
    count = p: xs: length (filter p xs);
    sort = builtins.sort;
    sortOn = f: builtins.sort (a: b: f a < f b);
  };

  attrsets = {
    nameValuePair = name: value: { inherit name value; };
    optionalAttrs = condition: set: if condition then set else { };
    genAttrs = names: f: listToAttrs (map (name: lib.nameValuePair name (f name)) names);
    mapAttrs' = f: set: listToAttrs (lib.mapAttrsToList f set);
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    filterAttrs = p: set: removeAttrs set (filter (name: !p name set.${name}) (attrNames set));
    filterAttrsRecursive =
      p: set: mapAttrs (_: value: if isAttrs value then lib.filterAttrsRecursive p value else value) (lib.filterAttrs p set);
    attrByPath =
      path: default: set:
      if path == [ ] then
        set
      else if isAttrs set && set ? ${head path} then
        lib.attrByPath (tail path) default set.${head path}
      else
        default;
    hasAttrByPath =
      path: set: path == [ ] || (isAttrs set && set ? ${head path} && lib.hasAttrByPath (tail path) set.${head path});
    getAttrFromPath = path: lib.attrByPath path (throw "cannot find attribute '${concatStringsSep "." path}'");
    setAttrByPath = path: value: lib.foldr (name: inner: { ${name} = inner; }) value path;
    recursiveUpdate =
      a: b:
      a
      // mapAttrs (name: value: if isAttrs value && isAttrs (a.${name} or null) then lib.recursiveUpdate a.${name} value else value) b;
    mergeAttrsList = foldl' (a: b: a // b) { };
    collect =
      p: x:
      if p x then
        [ x ]
      else if isAttrs x then
        concatMap (lib.collect p) (attrValues x)
      else
        [ ];
    getOutput = output: pkg: pkg.${output} or pkg.out or pkg;
    getBin = lib.getOutput "bin";
  };

  strings = {
    concatLines = lines: lib.concatStrings (map (line: line + "\n") lines);
    concatStrings = concatStringsSep "";
    concatMapStrings = f: xs: lib.concatStrings (map f xs);
    concatMapStringsSep =
      sep: f: xs:
      concatStringsSep sep (map f xs);
    optionalString = condition: s: if condition then s else "";
    hasPrefix = prefix: s: substring 0 (stringLength prefix) s == prefix;
    hasSuffix = suffix: s: stringLength s >= stringLength suffix && substring (stringLength s - stringLength suffix) (-1) s == suffix;
    removePrefix = prefix: s: if lib.hasPrefix prefix s then substring (stringLength prefix) (-1) s else s;
    removeSuffix = suffix: s: if lib.hasSuffix suffix s then substring 0 (stringLength s - stringLength suffix) s else s;
    splitString = sep: s: filter isString (builtins.split (lib.escapeRegex sep) (toString s));
    trim = s: head (match "[[:space:]]*(.*[^[:space:]]|)[[:space:]]*" s);
    stringToCharacters = s: genList (i: substring i 1 s) (stringLength s);
    escape = characters: replaceStrings characters (map (c: "\\${c}") characters);
    escapeRegex = lib.escape (lib.stringToCharacters "\\[{()^$?*+|.");
    escapeShellArg =
      arg:
      let
        s = toString arg;
      in
      if match "[[:alnum:],._+:@%/-]+" s != null then s else "'${replaceStrings [ "'" ] [ "'\\''" ] s}'";
    toInt =
      s:
      let
        digits = match "[[:space:]]*(-?(0|[1-9][0-9]*))[[:space:]]*" s;
      in
      if digits == null then throw "Could not convert ${toJSON s} to int." else builtins.fromJSON (head digits);
    makeSearchPath = sub: pkgs: concatStringsSep ":" (map (pkg: "${pkg}/${sub}") (filter (pkg: pkg != null) pkgs));
    makeBinPath = pkgs: lib.makeSearchPath "bin" (map lib.getBin pkgs);
    getName = x: if isString x then (builtins.parseDrvName x).name else x.pname or (builtins.parseDrvName x.name).name;
    getVersion = x: if isString x then (builtins.parseDrvName x).version else x.version or (builtins.parseDrvName x.name).version;
    isStringLike = x: isString x || builtins.isPath x || x ? outPath || x ? __toString;
    isStorePath = x: lib.isStringLike x && builtins.dirOf (toString x) == builtins.storeDir && substring 0 1 (toString x) == "/";
    getExe = x: lib.getExe' x (x.meta.mainProgram or (lib.getName x));
    getExe' = x: program: "${lib.getBin x}/bin/${program}";
  };

  meta = {
    licenses.mit = {
      fullName = "MIT License";
      shortName = "mit";
      spdxId = "MIT";
      url = "https://spdx.org/licenses/MIT.html";
      free = true;
      deprecated = false;
      redistributable = true;
    };
    platforms.linux = [
      "aarch64-linux"
      "x86_64-linux"
    ];
    maintainers = { };
    sourceTypes.fromSource = {
      shortName = "fromSource";
      isSource = true;
    };
  };

  # The formats that the project writes, of lib.generators.
  generators.toINI =
    { }:
    sections:
    concatStringsSep "\n" (
      lib.mapAttrsToList (
        section: values:
        "[${section}]\n"
        + lib.concatStrings (
          lib.mapAttrsToList (
            name: value: "${name}=${if builtins.isBool value then lib.boolToString value else toString value}\n"
          ) values
        )
      ) sections
    );
  generators.toJSON = { }: toJSON;
  generators.toPretty =
    { multiline ? true }:
    let
      go =
        indent: v:
        let
          open = if multiline then "\n${indent}  " else " ";
          close = if multiline then "\n${indent}" else " ";
          lines = lib.splitString "\n" v;
        in
        if isString v && multiline && length lines > 1 then
          throw "toPretty: the stand-in writes no text of several lines"
        else if isString v then
          "\"${lib.concatMapStringsSep "\\n" (lib.escape [ "\\" "\"" "\${" ]) lines}\""
        else if isList v then
          if v == [ ] then "[ ]" else "[${open}${lib.concatMapStringsSep open (go "${indent}  ") v}${close}]"
        else if lib.isFunction v then
          "<function>"
        else if lib.isDerivation v then
          "<derivation ${v.name}>"
        else if v == { } then
          "{ }"
        else if isAttrs v then
          "{${open}${lib.concatStringsSep open (lib.mapAttrsToList (name: x: "${lib.showOption [ name ]} = ${go "${indent}  " x};") v)}${close}}"
        else if builtins.isPath v then
          toString v
        else
          toJSON v;
    in
    go "";

  # Filesets, as what holds a path (by its text): all below one, in some directory of one.
  fileset =
    let
      isBelow = dir: path: path == dir || lib.hasPrefix "${dir}/" path;
      of = set: if builtins.isPath set then { holds = isBelow (toString set); reaches = path: isBelow path (toString set); } else set;
    in
    {
      unions = sets: {
        holds = path: builtins.any (set: (of set).holds path) sets;
        reaches = path: builtins.any (set: (of set).reaches path) sets;
      };
      difference = a: b: {
        holds = path: (of a).holds path && !(of b).holds path;
        inherit (of a) reaches;
      };
      toSource =
        { root, fileset }:
        {
          outPath = builtins.path {
            path = root;
            name = "source";
            filter = path: type: (of fileset).holds path || (type == "directory" && (of fileset).reaches path);
          };
          origSrc = root;
        };
    };

  lib =
    builtins.removeAttrs builtins [
      "add"
      "derivation"
      "import"
      "throw"
      "abort"
      "toString"
      "map"
      "removeAttrs"
    ]
    // trivial
    // lists
    // attrsets
    // strings
    // meta
    // {
      inherit
        trivial
        lists
        attrsets
        strings
        generators
        fileset
        ;
      add = a: b: a + b;
      types = import ./types.nix { inherit lib; };
    }
    // import ./options.nix { inherit lib; }
    // import ./modules.nix { inherit lib; };
in
lib
