# What is wrong with flake.lock, as texts: nothing unlocked, nothing but what flake.nix names, and that as it names it.
let
  inherit (import ../flake.nix) inputs;
  lock = builtins.fromJSON (builtins.readFile ../flake.lock);
  nodes = removeAttrs lock.nodes [ lock.root ];
  is = pattern: text: builtins.match pattern text != null;
  wrong = name: what: [ "flake.lock: ${name}: ${what}" ];
  of =
    name: node:
    (if inputs ? ${name} then [ ] else wrong name "is no input of flake.nix")
    ++ (if node.original == builtins.parseFlakeRef inputs.${name}.url or "path:." then [ ] else wrong name "is locked as another than flake.nix names: nix flake lock")
    ++ (if is "[0-9a-f]{40}" node.locked.rev or "" then [ ] else wrong name "has no revision")
    ++ (if is "sha256-[A-Za-z0-9+/]{43}=" node.locked.narHash or "" then [ ] else wrong name "has no digest of its content")
    ++ (if removeAttrs node.locked [ "rev" "narHash" "lastModified" ] == removeAttrs node.original [ "ref" ] then [ ] else wrong name "is locked to another place");
in
builtins.concatMap (name: if nodes ? ${name} then [ ] else wrong name "is not locked: nix flake lock") (builtins.attrNames inputs)
++ builtins.concatMap (name: of name nodes.${name}) (builtins.attrNames nodes)
