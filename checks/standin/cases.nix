# What the stand-in's lib has to do as the real one does: values, configurations of modules, rejections. A case that throws has to throw in both.
# compare.nix evaluates all with both.
lib:
let
  inherit (lib) mkOption types;
  # The configuration of modules, and that of one option x of a type with some definitions.
  config = modules: (lib.evalModules { inherit modules; }).config;
  x = type: definitions: (config ([ { options.x = mkOption { inherit type; }; } ] ++ map (value: { x = value; }) definitions)).x;
  one = type: value: x type [ value ];
  merged = type: definitions: x type definitions;
  package = name: { type = "derivation"; inherit name; outPath = "/nix/store/00000000000000000000000000000000-${name}"; meta = { }; };
  port = { options.port = mkOption { type = types.port; default = 80; }; };
  doc = option: map (o: removeAttrs o [ "declarations" ]) (lib.optionAttrSetToDocList (lib.evalModules { modules = [ { options = option; _module.args = { }; } ]; }).options);
in
{
  # strings
  hasPrefix = map (lib.hasPrefix "/run/") [ "/run/cis490" "/run" "" "/var/run/" ];
  hasSuffix = map (lib.hasSuffix ".json") [ "a.json" "json" ".json" "a.json.x" ];
  removePrefix = map (lib.removePrefix "/run/") [ "/run/a" "/var/run/a" "/run/" ];
  removeSuffix = map (lib.removeSuffix "\n") [ "a\n" "a\n\n" "" ];
  splitString = [ (lib.splitString ":" "::a:b:") (lib.splitString "." "a.b.c") (lib.splitString "\n" "") (lib.splitString "[" "a[b") (lib.splitString "$(" "a$(b") ];
  trim = map lib.trim [ " a b \n" "\t" "" "a\n\nb" ];
  toInt = map lib.toInt [ "8490" " 12 " "-3" "0" ];
  toInt-of-text = lib.toInt "http";
  toInt-of-nothing = lib.toInt "";
  toInt-of-a-fraction = lib.toInt "1.5";
  toInt-with-zeros = lib.toInt "0755";
  escapeShellArg = map lib.escapeShellArg [ "a" "a b" "it's" "" "$HOME" "a/b:c=d" ];
  escapeRegex = lib.escapeRegex "a.b*[c](d){e}^$?+|\\";
  concats = [ (lib.concatLines [ "a" "b" ]) (lib.concatLines [ ]) (lib.concatStrings [ "a" "b" ]) (lib.concatMapStrings toString [ 1 2 ]) (lib.concatMapStringsSep "," toString [ 1 2 ]) ];
  optionalString = [ (lib.optionalString true "a") (lib.optionalString false "a") ];
  getName-getVersion = map (p: [ (lib.getName p) (lib.getVersion p) ]) [ "cis490-shipper-1.2" { pname = "a-b"; version = "3"; } { name = "x-1"; } ];
  makeBinPath = lib.makeBinPath [ (package "a") "/usr" ];
  isStorePath = map lib.isStorePath [ (package "a") "/nix/store" "/nix/store/00000000000000000000000000000000-a/b" "/etc" 1 ];
  getExe = lib.getExe (package "a" // { meta.mainProgram = "b"; });
  getExe' = lib.getExe' (package "a") "c";
  stringToCharacters = lib.stringToCharacters "a b";

  # lists
  lists = {
    optional = [ (lib.optional true 1) (lib.optional false 1) (lib.optionals true [ 1 2 ]) (lib.optionals false [ 1 ]) ];
    ends = [ (lib.last [ 1 2 ]) (lib.init [ 1 2 ]) (lib.take 5 [ 1 2 ]) (lib.drop 1 [ 1 2 ]) (lib.drop 5 [ 1 ]) ];
    flatten = lib.flatten [ 1 [ 2 [ 3 [ ] ] ] "a" ];
    imap = [ (lib.imap0 (i: v: [ i v ]) [ "a" "b" ]) (lib.imap1 (i: v: [ i v ]) [ "a" ]) ];
    range = [ (lib.range 1 3) (lib.range 3 1) ];
    unique = lib.unique [ 3 1 3 2 1 ];
    folds = [ (lib.foldr (a: b: "${a}${b}") "!" [ "a" "b" ]) (lib.foldl' (a: b: "${a}${b}") "!" [ "a" "b" ]) ];
    count = lib.count (v: v > 1) [ 1 2 3 ];
    sortOn = lib.sortOn (v: v.a) [ { a = 2; b = 1; } { a = 1; b = 2; } { a = 1; b = 3; } ];
  };
  last-of-nothing = lib.last [ ];

  # attribute sets
  attrsets = {
    genAttrs = lib.genAttrs [ "b" "a" ] (n: n + n);
    maps = [ (lib.mapAttrs' (n: v: lib.nameValuePair "${n}${n}" (v + 1)) { a = 1; }) (lib.mapAttrsToList (n: v: "${n}${toString v}") { b = 2; a = 1; }) ];
    filters = [ (lib.filterAttrs (n: v: n != "a" && v != 2) { a = 1; b = 2; c = 3; }) (lib.filterAttrsRecursive (_: v: v != null) { a = null; b = { c = null; d = 1; }; }) ];
    recursive = [ (lib.recursiveUpdate { a = { b = 1; c = 2; }; } { a = { c = 3; }; d = 4; }) ];
    paths = [ (lib.attrByPath [ "a" "b" ] 0 { a.b = 1; }) (lib.attrByPath [ "a" "c" ] 0 { a.b = 1; }) (lib.attrByPath [ "a" "b" ] 0 { a = 1; }) (lib.hasAttrByPath [ "a" ] { a = 1; }) (lib.setAttrByPath [ "a" "b" ] 1) (lib.getAttrFromPath [ "a" ] { a = 1; }) ];
    folds = [ (lib.mergeAttrsList [ { a = 1; } { a = 2; b = 3; } ]) (lib.collect lib.isString { a = "x"; b = { c = "y"; d = 1; }; }) ];
    optionalAttrs = [ (lib.optionalAttrs true { a = 1; }) (lib.optionalAttrs false { a = 1; }) ];
  };

  # generators and the like
  toPretty = lib.generators.toPretty { multiline = false; } { a = 1; b = [ "x\"y" true null ]; c = { }; d = [ ]; "e f" = 1.5; };
  toPretty-of-lines = lib.generators.toPretty { } { a = [ 1 2 ]; b = { c = "d"; }; };
  showOption = map lib.showOption [ [ "a" "b" ] [ "services" "cis490.x" "y" ] [ "a" "<name>" "c" ] [ "a" "*" ] [ "a" "lab-01" ] [ "a" "1x" ] ];
  fileset = (lib.fileset.toSource { root = ../../.; fileset = lib.fileset.unions [ ../../go.mod (lib.fileset.difference ../../modules ../../modules/common.nix) ]; }).outPath;
  functions = [ (lib.isFunction (a: a)) (lib.isFunction { __functor = _: a: a; }) (lib.functionArgs ({ a, b ? 1 }: a)) (lib.fix (self: { a = 1; b = self.a; })).b ];

  # types: what they take and how definitions of one option become one
  bool = one types.bool true;
  bool-equal = merged types.bool [ true true ];
  bool-conflict = merged types.bool [ true false ];
  bool-of-text = one types.bool "true";
  int-of-a-float = one types.int 1.5;
  int-conflict = merged types.int [ 1 2 ];
  float-of-an-int = one types.float 1;
  number = map (one types.number) [ 1 1.5 ];
  between = map (one (types.ints.between 10 20)) [ 10 20 ];
  between-below = one (types.ints.between 10 20) 9;
  between-above = one (types.ints.between 10 20) 21;
  positive-of-zero = one types.ints.positive 0;
  unsigned-below-zero = one types.ints.unsigned (-1);
  port = map (one types.port) [ 0 65535 ];
  port-too-high = one types.port 65536;
  port-of-text = one types.port "80";
  str = one types.str "a";
  str-equal = merged types.str [ "a" "a" ];
  str-conflict = merged types.str [ "a" "b" ];
  str-of-a-number = one types.str 1;
  str-of-a-list = one types.str [ "a" ];
  nonEmptyStr-of-blanks = one types.nonEmptyStr " \n";
  singleLineStr = one types.singleLineStr "a\n";
  singleLineStr-of-two = one types.singleLineStr "a\nb";
  strMatching = one (types.strMatching "[a-z]{1,3}") "abc";
  strMatching-part = one (types.strMatching "[a-z]{1,3}") "abcd";
  strMatching-conflict = merged (types.strMatching "[a-z]") [ "a" "b" ];
  lines = merged types.lines [ "a" "b" ];
  separatedString = merged (types.separatedString " ") [ "a" (lib.mkBefore "b") (lib.mkAfter "c") ];
  path = map (one types.path) [ "/a" "/nix/store" ];
  path-relative = one types.path "a/b";
  path-of-nothing = one types.path "";
  path-conflict = merged types.path [ "/a" "/b" ];
  package = (one types.package (package "a")).name;
  package-of-a-set = one types.package { name = "a"; };
  enum = one (types.enum [ "a" 1 true ]) 1;
  enum-other = one (types.enum [ "a" "b" ]) "c";
  enum-conflict = merged (types.enum [ "a" "b" ]) [ "a" "b" ];
  listOf = merged (types.listOf types.int) [ [ 1 ] [ 2 3 ] ];
  listOf-ordered = merged (types.listOf types.int) [ (lib.mkAfter [ 1 ]) [ 2 ] (lib.mkBefore [ 3 ]) (lib.mkOrder 400 [ 4 ]) ];
  listOf-conditions = one (types.listOf types.int) [ 1 (lib.mkIf false 2) (lib.mkIf true 3) ];
  listOf-wrong-entry = one (types.listOf types.int) [ 1 "2" ];
  listOf-of-one = one (types.listOf types.int) 1;
  listOf-undefined = merged (types.listOf types.int) [ ];
  nonEmptyListOf = one (types.nonEmptyListOf types.int) [ 1 ];
  nonEmptyListOf-nothing = one (types.nonEmptyListOf types.int) [ ];
  attrsOf = merged (types.attrsOf types.int) [ { a = 1; } { b = 2; } ];
  attrsOf-conflict = merged (types.attrsOf types.int) [ { a = 1; } { a = 2; } ];
  attrsOf-conditions = merged (types.attrsOf types.int) [ { a = lib.mkIf false 1; b = lib.mkIf true 2; } (lib.mkIf false { c = 3; }) ];
  attrsOf-priorities = merged (types.attrsOf types.int) [ { a = lib.mkDefault 1; b = 1; } { a = 2; b = lib.mkForce 3; } ];
  attrsOf-wrong-entry = one (types.attrsOf types.int) { a = "1"; };
  attrsOf-of-a-list = one (types.attrsOf types.int) [ 1 ];
  attrsOf-undefined = merged (types.attrsOf types.int) [ ];
  lazyAttrsOf = merged (types.lazyAttrsOf types.int) [ { a = 1; } { b = 2; } ];
  lazyAttrsOf-condition = one (types.lazyAttrsOf types.int) { a = lib.mkIf false 1; };
  lazyAttrsOf-null = one (types.lazyAttrsOf (types.nullOr types.int)) { a = lib.mkIf false 1; };
  nullOr = map (one (types.nullOr types.int)) [ null 1 ];
  nullOr-both = merged (types.nullOr types.int) [ null 1 ];
  nullOr-undefined = merged (types.nullOr types.int) [ ];
  nullOr-wrong = one (types.nullOr types.int) "a";
  either = map (one (types.either types.int types.str)) [ 1 "a" ];
  either-lists = merged (types.either (types.listOf types.int) (types.listOf types.str)) [ [ 1 ] [ 2 ] ];
  either-mixed = merged (types.either types.int types.str) [ 1 "a" ];
  either-neither = one (types.either types.int types.str) true;
  oneOf = map (one (types.oneOf [ types.bool types.int (types.listOf types.str) ])) [ true 1 [ "a" ] ];
  coercedTo = map (one (types.coercedTo types.int toString types.str)) [ 1 "a" ];
  coercedTo-merge = merged (types.coercedTo types.str (s: [ s ]) (types.listOf types.str)) [ "a" [ "b" ] ];
  coercedTo-wrong = one (types.coercedTo types.int toString types.str) true;
  addCheck = one (types.addCheck types.int (i: i == 2)) 2;
  addCheck-fails = one (types.addCheck types.int (i: i == 2)) 3;
  uniq-twice = merged (types.uniq types.int) [ 1 1 ];
  functionTo = (merged (types.functionTo (types.listOf types.int)) [ (a: [ a ]) (a: [ (a + 1) ]) ]) 1;
  raw-twice = merged types.raw [ 1 1 ];
  anything = merged types.anything [ { a.b = 1; } { a.c = [ 2 ]; } ];
  anything-equal = merged types.anything [ { a = [ 1 ]; } { a = [ 1 ]; } ];
  anything-conflict = merged types.anything [ { a = 1; } { a = 2; } ];
  anything-kinds = merged types.anything [ 1 "a" ];
  unspecified = map (merged types.unspecified) [ [ 1 1 ] [ { a = 1; } { b = 2; } ] [ true false ] [ "a" "b" ] ];
  unspecified-conflict = merged types.unspecified [ 1 2 ];
  unspecified-kinds = merged types.unspecified [ 1 "a" ];
  unspecified-lists = merged types.unspecified [ [ 1 ] [ 2 ] ];
  attrs = merged types.attrs [ { a = 1; } { b = 2; } ];
  json = one types.json { a = [ 1 1.5 "x" null true { b = { }; } ]; };
  json-merge = merged types.json [ { a = 1; } { b.c = 2; } ];
  json-of-a-function = one types.json { a = b: b; };
  json-conflict = merged types.json [ { a = 1; } { a = 2; } ];
  optionType = one types.optionType types.int != null;
  optionType-wrong = one types.optionType 1;

  # submodules
  submodule = one (types.submodule port) { };
  submodule-set = merged (types.submodule port) [ { port = 1; } { } ];
  submodule-function = one (types.submodule ({ name, config, ... }: { options = { n = mkOption { default = name; }; twice = mkOption { default = config.n + config.n; }; }; })) { };
  submodule-names = one (types.attrsOf (types.submodule ({ name, ... }: { options.n = mkOption { type = types.str; default = name; }; }))) { a = { }; b.n = "c"; };
  submodule-unknown = one (types.submodule port) { prot = 1; };
  submodule-of-a-number = one (types.submodule port) 1;
  submodule-undefined = merged (types.submodule port) [ ];
  submodule-conflict = merged (types.submodule port) [ { port = 1; } { port = 2; } ];
  submodule-freeform = merged (types.submodule (port // { freeformType = types.attrsOf types.int; })) [ { a = 1; } { b = 2; port = 3; } ];
  submodule-freeform-wrong = one (types.submodule (port // { freeformType = types.attrsOf types.int; })) { a = "x"; };
  submodule-freeform-nested = one (types.submodule { freeformType = types.json; options.a.b = mkOption { default = 1; }; }) { a.c = 2; d = [ 3 ]; };
  submodule-freeform-condition = one (types.submodule { freeformType = types.attrsOf types.int; }) { a = lib.mkIf false 1; b = lib.mkDefault 2; };
  submoduleWith = one (types.submoduleWith { modules = [ port ({ extra, ... }: { port = extra; }) ]; specialArgs.extra = 7; }) { };
  nullOr-submodule = merged (types.nullOr (types.submodule port)) [ { } { port = 2; } ];

  # modules
  priorities = map (definitions: x types.int definitions) [ [ (lib.mkDefault 1) 2 ] [ (lib.mkForce 1) 2 ] [ (lib.mkOverride 10 1) (lib.mkForce 2) ] [ (lib.mkOptionDefault 1) (lib.mkDefault 2) ] ];
  defaults = (config [ { options.a = mkOption { default = 1; }; options.b = mkOption { default = 2; }; } { b = lib.mkDefault 3; } ]);
  default-conflict = x types.int [ (lib.mkDefault 1) (lib.mkDefault 2) ];
  conditions = x (types.listOf types.int) [ (lib.mkIf true [ 1 ]) (lib.mkIf false [ 2 ]) (lib.mkMerge [ [ 3 ] (lib.mkIf true [ 4 ]) ]) ];
  condition-of-text = x types.int [ (lib.mkIf "yes" 1) ];
  condition-around-a-throw = x types.int [ 1 (lib.mkIf false (throw "no")) ];
  condition-on-config = (config [ { options.on = mkOption { default = true; }; options.y = mkOption { default = 0; }; } ({ config, ... }: { config = lib.mkIf config.on { y = 1; }; }) ]).y;
  merge-of-sets = config [ { options.a.b = mkOption { type = types.int; }; options.a.c = mkOption { type = types.int; }; } { a = lib.mkMerge [ { b = 1; } (lib.mkIf true { c = 2; }) ]; } ];
  override-of-a-set = config [ { options.a.b = mkOption { type = types.int; }; } { a = lib.mkForce { b = 1; }; } { a.b = 2; } ];
  unknown-option = config [ { y = 1; } ];
  unknown-option-deep = config [ { options.a.b = mkOption { default = 1; }; } { a.c = 1; } ];
  unknown-option-that-is-off = config [ { y = lib.mkIf false 1; } ];
  undefined = x types.int [ ];
  set-to-a-value = config [ { options.a.b = mkOption { default = 1; }; } { a = 1; } ];
  read-only = config [ { options.a = mkOption { readOnly = true; default = 1; }; } ];
  read-only-set = config [ { options.a = mkOption { readOnly = true; default = 1; }; } { a = 2; } ];
  read-only-twice = config [ { options.a = mkOption { type = types.int; readOnly = true; }; } { a = 2; } { a = 2; } ];
  apply = (config [ { options.a = mkOption { type = types.int; apply = v: v + 1; }; } { a = 1; } ]).a;
  imports = config [ { imports = [ { imports = [ port ]; } ({ config, ... }: { options.b = mkOption { default = config.port; }; }) ]; } ];
  imports-once = (config [ { options.a = mkOption { type = types.listOf types.int; }; imports = [ { key = "k"; a = [ 1 ]; } { key = "k"; a = [ 1 ]; } ]; } ]).a;
  imports-order = (config [ { options.a = mkOption { type = types.listOf types.int; }; } { imports = [ { a = [ 2 ]; } ]; a = [ 1 ]; } { a = [ 3 ]; } ]).a;
  imports-of-a-list = config [ { imports = [ [ port ] ]; } ];
  mixed-with-options = config [ { options.a = mkOption { default = 1; }; a = 2; } ];
  arguments = (config [ { _module.args.n = 3; } ({ n, ... }: { options.a = mkOption { default = n; }; }) ]).a;
  specialArgs = (lib.evalModules { specialArgs.n = 4; modules = [ ({ n, ... }: { options.a = mkOption { default = n; }; }) ]; }).config.a;
  prefix = (lib.evalModules { prefix = [ "p" ]; modules = [ port ]; }).options.port.loc;
  extendModules = ((lib.evalModules { modules = [ port ]; }).extendModules { modules = [ { port = 9; } ]; }).config.port;
  freeform = config [ { freeformType = types.attrsOf types.int; } port { a = 1; } ];
  check-off = config [ port { _module.check = false; y = 1; } ];
  isDefined = let inherit (lib.evalModules { modules = [ { options = { a = mkOption { type = types.int; }; b = mkOption { default = 1; }; }; } ]; }) options; in [ options.a.isDefined options.b.isDefined options.b.highestPrio ];
  definitions = let inherit (lib.evalModules { modules = [ { options.a = mkOption { type = types.listOf types.int; }; } { _file = "f"; a = [ 1 ]; } { _file = "g"; a = lib.mkIf false [ 2 ]; } ]; }) options; in [ options.a.definitions options.a.files options.a.loc ];
  mkEnableOption = removeAttrs (lib.mkEnableOption "x") [ "type" "_type" ];
  mkPackageOption = let o = lib.mkPackageOption { a.b = package "b"; } "thing" { default = [ "a" "b" ]; }; in [ o.description o.defaultText o.default.name o.type.description ];

  # how types and options are named in the documentation
  descriptions = map (t: t.description) [
    types.bool types.int types.float types.number (types.ints.between 1 2) types.ints.unsigned types.ints.positive types.port types.str types.nonEmptyStr
    types.singleLineStr (types.strMatching "a") types.lines types.path types.package types.attrs types.anything types.raw types.unspecified types.optionType
    types.json (types.enum [ "a" 1 ]) (types.enum [ ]) (types.enum [ "a" ]) (types.listOf types.int) (types.listOf (types.nullOr types.int)) (types.attrsOf (types.listOf types.str))
    (types.lazyAttrsOf types.int) (types.nullOr types.str) (types.nullOr (types.ints.between 1 2)) (types.either types.int types.str) (types.either types.ints.positive types.str)
    (types.oneOf [ types.int types.str types.bool ]) (types.coercedTo types.int toString types.str) (types.submodule { }) (types.submodule { freeformType = types.attrsOf types.int; })
    (types.attrsOf (types.submodule { })) (types.functionTo types.int) (types.uniq types.int) (types.nonEmptyListOf types.int) (types.addCheck types.int (_: true))
  ];
  documentation = doc {
    a = mkOption { type = types.int; default = 1; example = 2; description = "d"; };
    b.c = mkOption { type = types.attrsOf (types.submodule { options.e = mkOption { type = types.nullOr types.str; default = null; defaultText = lib.literalMD "*f*"; }; }); default = { }; description = "g"; };
    h = mkOption { type = types.listOf (types.submodule { options.i = mkOption { type = types.bool; internal = true; }; }); visible = "shallow"; };
    j = mkOption { visible = false; };
    k = mkOption { type = types.package; default = throw "no"; defaultText = lib.literalExpression "pkgs.x"; };
  };
}
