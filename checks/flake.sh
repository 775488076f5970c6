# The part "flake" of checks/run, which sources this: everything that flake.nix gives, by real Nix, on the stand-in for nixpkgs. README.md
# beside it says what each check is. The functions take the tree that they look at, so that flake-defects can ask them about a copy.

flake_build() { checks/nix build --no-link --print-build-logs -f "$1/checks/standin/outputs.nix" --argstr version "$version" "${@:2}"; }
flake_version() { checks/nix eval --raw .#cis490-shipper.version 2>/dev/null; }

# What there is, by name. What checks there are, their own names say.
flake_outputs() {
  checks/nix eval --impure --raw --expr "let outputs = import $(realpath "$1")/checks/standin/outputs.nix { };"'
      names = prefix: set: map (name: "${prefix}.${name}\n") (builtins.attrNames set);
      perSystem = output: builtins.concatMap (system: names "${output}.${system}" outputs.${output}.${system}) (builtins.attrNames outputs.${output});
    in
    builtins.concatStringsSep "" (builtins.concatMap perSystem [ "apps" "devShells" "packages" ]
      ++ builtins.concatMap (output: names output outputs.${output}) [ "formatter" "nixosConfigurations" "nixosModules" "overlays" ])' |
    diff -u checks/outputs.txt -
}

flake_lock() {
  local wrong
  wrong=$(checks/nix eval --json -f "$1/checks/lock.nix") || return 1
  [ "$wrong" = "[]" ] || { echo "$wrong"; return 1; }
}

# The digest of what go mod vendor makes of the package's source: it changes with go.mod and with what is imported, tests included.
flake_vendor_hash() {
  local says is
  says=$(sed -n 's/^ *vendorHash = "\(.*\)";$/\1/p' "$1/src/package.nix")
  rm -rf "$work/vendor"; mkdir "$work/vendor"
  cp -r "$1/go.mod" "$1/go.sum" "$1/src" "$work/vendor" && (cd "$work/vendor" && GOFLAGS=-mod=mod go mod vendor) &&
    is=$(checks/nix hash path "$work/vendor/vendor") || return 1
  rm -rf "$work/vendor"
  [ "$says" = "$is" ] || { echo "src/package.nix: vendorHash is $says"; echo "                 it has to be $is"; return 1; }
}

# overlays.default has the programs of packages, by the same derivations.
flake_overlay() {
  checks/nix eval --impure --raw --expr "let outputs = import $(realpath "$1")/checks/standin/outputs.nix { };"'
      pkgs = (import ./checks/standin/nixpkgs.nix (import ./checks/standin/lib)).legacyPackages.x86_64-linux;
      overlaid = outputs.overlays.default (pkgs // overlaid) pkgs;
      differ = builtins.filter (name: overlaid.${name}.drvPath != outputs.packages.x86_64-linux.${name}.drvPath) (builtins.attrNames overlaid);
    in if differ == [ ] && overlaid != { } then "the same" else throw (toString differ)'
}

# The flake of the deploy page, with the hosts beside it, as somebody makes their own from them.
flake_deploy() {
  local own=$work/deploy host
  rm -rf "$own"; mkdir "$own"
  cp "$1"/nixos/*.nix "$1/nixos/ca.crt" "$own/"
  sed -n '/^```nix$/,/^```$/p' "$1/nixos/README.md" | sed "1d;\$d;s,git+https://git.example.org/cis490,git+file://$(realpath "$1")," >"$own/flake.nix"
  for host in receiver lab-01; do
    checks/nix --real eval --raw --no-write-lock-file --override-input cis490/nixpkgs "path:$(realpath "$1")/checks/standin" \
      "path:$own#nixosConfigurations.$host.config.system.build.toplevel.drvPath" || return 1
  done
}

# One of mistakes.nix: it has to fail, and to say all that it should.
flake_mistake() {
  local says
  if checks/nix build --no-link --print-build-logs -f "$1/checks/mistakes.nix" --argstr version "$version" "build.$2" >"$work/mistake.log" 2>&1; then
    echo "$2 is accepted"; return 1
  fi
  checks/nix eval --raw -f "$1/checks/mistakes.nix" "says.$2" --apply 'builtins.concatStringsSep "\n"' >"$work/says" || return 1
  while read -r says || [ -n "$says" ]; do
    grep -qF -- "$says" "$work/mistake.log" || { echo "its message does not say: $says"; cat "$work/mistake.log"; return 1; }
  done <"$work/says"
}

# The programs in what a host would install: a lab host has the shipper, and nothing of the receiver.
flake_closure() {
  local paths
  flake_build "$1" "nixosConfigurations.$2.config.system.build.toplevel" || return 1
  paths=$(checks/nix path-info -r -f "$1/checks/standin/outputs.nix" --argstr version "$version" "nixosConfigurations.$2.config.system.build.toplevel") || return 1
  paths=$(sed -nE 's,^/nix/store/[a-z0-9]{32}-(cis490-[a-z]+)-[0-9].*,\1,p' <<<"$paths" | sort -u | tr '\n' ' ')
  [ "$paths" = "${*:3} " ] || { echo "in the closure of $2: $paths, instead of ${*:3}"; return 1; }
}

# All that must not change, as text: /etc with the authorities that this machine trusts, and /nix.
flake_machine() {
  local place
  for place in /etc /nix; do
    [ -e "$place" ] || { echo "$place is not there"; continue; }
    find "$place" -printf '%p %y %m %U:%G %s %l\n' | sort
    find "$place" -type f -print0 | sort -z | xargs -0r sha256sum
  done
}

flake_unchanged() { flake_machine >"$work/machine.after"; diff "$work/machine.before" "$work/machine.after"; }

flake_ready() {
  if [ "$(id -u)" != 0 ]; then echo "not run: $1: checks/nix needs root"; return 1; fi
  need mmdebstrap=mmdebstrap unshare=util-linux || { failed=$((failed + 1)); return 1; }
  version=$(flake_version) || { check "Nix" checks/nix eval --raw .#cis490-shipper.version; return 1; }
}

part_flake() {
  local name outputs system
  flake_ready flake || return
  flake_machine >"$work/machine.before"
  system=$(uname -m)-linux
  check "flake.lock locks what flake.nix names" flake_lock .
  check "flake.lock is what nix flake lock gives" checks/nix --real flake metadata --no-update-lock-file .
  check "vendorHash" flake_vendor_hash .
  check "outputs" flake_outputs .
  check "every output evaluates, for both systems" checks/nix flake check --no-build --all-systems .
  # Of a scenario what runs it, with its script type-checked: running it is another part.
  for name in $(checks/nix eval --raw ".#checks.$system" --apply \
    'checks: toString (map (name: if checks.${name} ? driver then "${name}.driver" else name) (builtins.attrNames checks))' 2>"$work/check.log"); do
    check "checks.$name" checks/nix build --no-link --print-build-logs ".#checks.$system.$name"
  done
  mapfile -t outputs < <(sed -nE "s/^(packages|devShells)\.$system\./.#&/p; s/^(nixosConfigurations\..*)/.#\1.config.system.build.toplevel/p" checks/outputs.txt)
  check "packages, hosts, shell and formatter build" checks/nix build --no-link --print-build-logs "${outputs[@]}" ".#formatter.$system"
  check "nix run .#demo" checks/nix run .#demo -- --help
  check "nix run .#doctor" checks/nix run .#doctor -- --list
  check "nix develop" checks/nix develop -c go vet ./src/version
  check "overlay" flake_overlay .
  check "the flake of the deploy page" flake_deploy .
  check "a lab host has shipper, sealing and the doctor alone" flake_closure . lab-host "cis490-doctor cis490-episode cis490-shipper"
  check "a receiver has the receiver alone" flake_closure . receiver "cis490-doctor cis490-receiver"
  for name in $(checks/nix eval --raw -f checks/mistakes.nix says --apply 'says: toString (builtins.attrNames says)'); do
    check "refused: $name" flake_mistake . "$name"
  done
  flake_cases
  flake_figures
  check "nothing of /etc and /nix has changed" flake_unchanged
}

flake_cases() {
  if [ -z "${NIXPKGS_LIB-}" ]; then
    echo "not run: the stand-in's lib beside the real one: NIXPKGS_LIB names no checkout of github.com/nix-community/nixpkgs.lib"
    return
  fi
  check "the stand-in's lib does as the real one" flake_compare
  sed -n 's/^\([0-9].*\)/        \1/p' "$work/check.log"
}

flake_compare() {
  checks/nix eval --impure --raw --expr "import ./checks/standin/compare.nix { real = $(realpath "$NIXPKGS_LIB"); }" \
    --apply 'result: "${toString result.count} cases, ${toString result.refused} of them rejections: ${toString (builtins.length result.different)} differ\n"
      + builtins.concatStringsSep "" (map (case: "${case.name}\n  stand-in: ${case.standin}\n  real:     ${case.real}\n") result.different)' |
    tee "$work/compared" && grep -q ': 0 differ$' "$work/compared"
}

# What a host would get of this project: figures, not checks.
flake_figures() {
  local host paths
  for host in lab-host receiver; do
    paths=$(checks/nix path-info -rs ".#nixosConfigurations.$host.config.system.build.toplevel" 2>/dev/null) || return
    awk -v host="$host" '/-cis490-/ { size += $2; names = names " " $1 } { all += $2 }
      END { printf "        %s: %.1f MiB of cis490, %.1f MiB with the configuration (without NixOS)\n", host, size / 2^20, all / 2^20 }' <<<"$paths"
  done
  checks/nix --exec cat "$(checks/nix path-info ".#checks.$(uname -m)-linux.programs-are-whole" 2>/dev/null)" |
    awk '{ modules[$1]++ } END { for (program in modules) print "        " program ": " modules[program] " Go modules" }' | sort
}

# Seeded defects. Each is made in a copy of the tree, and the check that is there for it has to fail and to say why; on the copy without
# it the same check passes.
part_flake_defects() {
  flake_ready flake-defects || return
  mkdir "$work/tree"
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/tree"
  local b="flake_build TREE checks.$(uname -m)-linux"
  declare -A sound=()
  defect "wrong vendorHash" src/package.nix 's/vendorHash = "sha256-.../vendorHash = "sha256-AAA/' \
    "flake_vendor_hash TREE" "it has to be sha256-"
  defect "import that vendorHash does not know" src/ship/ship.go 's,^import ($,&\n\t_ "golang.org/x/text/cases",' \
    "flake_vendor_hash TREE" "it has to be sha256-"
  defect "missing output" flake.nix 's/inherit (programs) cis490-demo cis490-doctor cis490-episode/inherit (programs) cis490-demo cis490-doctor/' \
    "flake_outputs TREE" "^-packages.*cis490-episode"
  defect "one system less" flake.nix 's/"x86_64-linux" "aarch64-linux"/"x86_64-linux"/' \
    "flake_outputs TREE" "^-packages.aarch64-linux"
  defect "syntax error" flake.nix 's/^  inputs.nixpkgs.url = \(.*\);/  inputs.nixpkgs.url = \1/' \
    "flake_outputs TREE" "syntax error"
  defect "module that is not there" flake.nix 's,modules/lab-host.nix,modules/labhost.nix,' \
    "flake_closure TREE lab-host cis490-doctor cis490-episode cis490-shipper" "modules/labhost.nix"
  defect "unlocked input" flake.nix '/inputs.nixpkgs.url/a \  inputs.other.url = "github:example/other";' \
    "flake_lock TREE" "other: is not locked"
  defect "lock of another branch" flake.lock 's/nixos-26.05/nixos-25.11/' \
    "flake_lock TREE" "is locked as another"
  defect "lock without a digest" flake.lock '/narHash/d' \
    "flake_lock TREE" "has no digest"
  defect "lock to another place" flake.lock '0,/"owner": "NixOS"/s//"owner": "example"/' \
    "flake_lock TREE" "is locked to another place"
  defect "unit without WatchdogSec" modules/common.nix '/WatchdogSec = /d' \
    "$b.units-are-sound" "WatchdogSec= is missing"
  defect "hardening taken out" modules/common.nix '/PrivateUsers = /d' \
    "$b.units-are-sound" "PrivateUsers= is missing"
  defect "hardening turned off" modules/common.nix 's/ProtectHome = true/ProtectHome = false/' \
    "$b.units-are-sound" "ProtectHome= is off"
  defect "hardening weakened" modules/common.nix 's/ProtectSystem = "strict"/ProtectSystem = "full"/' \
    "$b.units-are-sound" "ProtectSystem=full, but"
  defect "directive without a reason" modules/common.nix 's/LimitNOFILE = /Nice = 5; &/' \
    "$b.units-are-sound" "Nice= has no reason"
  defect "directive that systemd does not know" modules/common.nix 's/LimitNOFILE = /LimitNOFILES = 1; &/; ' \
    "$b.units-are-sound" "LimitNOFILES"
  defect "value that systemd does not know" modules/common.nix 's/Restart = "always"/Restart = "sometimes"/' \
    "flake_closure TREE lab-host cis490-doctor cis490-episode cis490-shipper" "serviceConfig' is not of type"
  defect "key that all can read" modules/lab-host.nix 's/identity" = dir "0700"/identity" = dir "0755"/' \
    "$b.units-are-sound" "identity is 0755"
  defect "secret in the store" nixos/receiver.nix 's,openFirewall = true;,& certFile = "/c"; keyFile = ./ca.crt;,' \
    "flake_closure TREE receiver cis490-doctor cis490-receiver" "receiver.keyFile is in the Nix store"
  defect "user that nobody makes" modules/units.nix 's/u ${name} -:/u ${name}x -:/' \
    "$b.units-are-sound" "Failed to resolve user"
  defect "user that is of no kind" modules/lab-host.nix '/isSystemUser = true/d' \
    "flake_closure TREE lab-host cis490-doctor cis490-episode cis490-shipper" "users.users.cis490-shipper.isSystemUser"
  defect "option that NixOS does not have" modules/shipper.nix 's/environment.systemPackages = /systemd.watchdog = 3; &/' \
    "flake_closure TREE lab-host cis490-doctor cis490-episode cis490-shipper" "systemd.watchdog. does not exist"
  defect "option of the wrong type" modules/receiver.nix 's/(map lib.toInt port)/port/' \
    "flake_closure TREE receiver cis490-doctor cis490-receiver" "allowedTCPPorts.* is not of type"
  defect "option without a description" modules/common.nix '/description = "Seconds without progress/d' \
    "$b.options" "watchdogSec has no description"
  defect "option that is not documented" modules/common.nix 's/default = 180/default = 240/' \
    "$b.options" "OPTIONS.md is out of date"
  defect "OPTIONS.md edited by hand" modules/OPTIONS.md '$ a more' \
    "$b.options" "OPTIONS.md is out of date"
  defect "configuration that nobody checks" modules/common.nix 's/if ! ${check} /if ! true /' \
    "flake_mistake TREE unknown-key" "unknown-key is accepted"
  defect "template that is not escaped" modules/common.nix 's/lib.replaceStrings \[ "\\${" "%{" \] \[ .* \] value/value/' \
    "$b.settings-are-literal" "lab"
  defect "wrong mainProgram" src/package.nix 's/mainProgram = name;/mainProgram = "cis490";/' \
    "$b.programs-are-whole" "programs-are-whole.* failed"
  defect "no manual pages" src/package.nix 's,share/man/man1/${name}-\*.1\* ,,' \
    "$b.programs-are-whole" "no manual page"
  defect "no message catalogue" src/package.nix 's,"lib/systemd/catalog/cis490.catalog"},""},' \
    "$b.programs-are-whole" "catalog is missing"
  defect "receiver's modules in the shipper" src/package.nix 's,^    done$,& ; [ ${name} != cis490-shipper ] || install -m 755 bin/cis490-receiver $out/bin/${name},' \
    "$b.programs-are-whole" "these modules are the receiver's alone"
  defect "receiver on a lab host" modules/shipper.nix 's,systemPackages = \[ cfg.package ,&config.services.cis490.receiver.package ,' \
    "flake_closure TREE lab-host cis490-doctor cis490-episode cis490-shipper" "in the closure of lab-host: cis490-doctor cis490-episode cis490-receiver cis490-shipper"
  defect "overlay of other programs" flake.nix 's/(programsOf final)/(programsOf (final \/\/ { runCommand = name: final.runCommand "${name}-x"; }))/' \
    "flake_overlay TREE" "cis490-demo"
  defect "host that is not what its module needs" nixos/lab-host.nix '/settings.receiver.url/d' \
    "flake_closure TREE lab-host cis490-doctor cis490-episode cis490-shipper" "settings.receiver.url"
}

# defect NAME FILE SED CHECK MESSAGE: CHECK names the tree as TREE.
defect() {
  local name=$1 file=$work/tree/$2 command=${4//TREE/$work/tree}
  if [ -z "${sound[$4]-}" ]; then
    sound[$4]=1
    check "without a defect: ${4//TREE/.}" $command
  fi
  cp "$file" "$work/original"
  check "caught: $name" flake_caught "$file" "$3" "$5" $command
  cp "$work/original" "$file"
}

flake_caught() { # FILE SED MESSAGE CHECK…
  local file=$1 message=$3
  sed -i "$2" "$file"
  if cmp -s "$file" "$work/original"; then echo "there is no such place in $file"; return 1; fi
  if "${@:4}" >"$work/caught.log" 2>&1; then echo "not caught"; cat "$work/caught.log"; return 1; fi
  grep -q -- "$message" "$work/caught.log" || { echo "caught, but the message does not say: $message"; cat "$work/caught.log"; return 1; }
}
