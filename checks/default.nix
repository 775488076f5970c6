# What nix flake check builds, beside the packages.
{ lib, pkgs, packages, nixosModules }:
let
  names = lib.filter (lib.hasPrefix "cis490-") (lib.attrNames packages);
  daemons = [ "cis490-receiver" "cis490-shipper" ];
  ofTheReceiver = [ "modernc.org/" "github.com/google/uuid" "github.com/remyoudompheng/bigfft" ]; # SQLite, and what it brings

  # Scenarios: NAME.nix has the nodes, NAME.py, after common.py, what is done to them.
  scenario = name: pkgs.testers.runNixOSTest {
    _module.args.next = import ../src/package.nix {
      inherit (pkgs) lib buildGoModule runCommand symlinkJoin;
      version = "next";
    };
    imports = [ (./. + "/${name}.nix") ];
    inherit name;
    defaults = { imports = [ nixosModules.default ]; virtualisation.diskSize = 8192; };
    testScript = lib.concatMapStrings builtins.readFile [ ./common.py (./. + "/${name}.py") ];
  };
  scenarios = [ "doctor" "driver" "end-to-end" "quarantine" "restart" "sandbox" "upgrade" "watchdog" ];
in
lib.genAttrs scenarios scenario // {
  inherit (packages) default units;

  options = pkgs.runCommand "options-are-documented" { } ''
    diff -u ${../modules/OPTIONS.md} ${packages.options-doc} || {
      echo "modules/OPTIONS.md is out of date: nix build .#options-doc && cp result modules/OPTIONS.md" >&2
      exit 1
    }
    touch $out
  '';

  # Each program alone: it has what belongs to it, runs, and has in it the Go modules of no other's task.
  programs-are-whole = pkgs.runCommand "programs-are-whole" { nativeBuildInputs = [ pkgs.go ]; } (lib.concatStrings (map
    (name:
      let package = packages.${name}; in ''
        [ "$(ls ${package}/bin)" = ${name} ] && [ ${lib.getExe package} = ${package}/bin/${name} ]
        go version -m ${lib.getExe package} | sed -n 's/^\tdep\t\([^\t]*\)\t.*/${name} \1/p' >>$out
        ${lib.optionalString (lib.elem name [ "cis490-doctor" "cis490-episode" "cis490-shipper" ]) ''
          if grep -E '^${name} (${lib.concatStringsSep "|" ofTheReceiver})' $out; then echo "${name}: these modules are the receiver's alone" >&2; exit 1; fi
        ''}
        ${lib.getExe package} --version | grep -F ${package.version}
        for file in share/bash-completion/completions/${name} share/fish/vendor_completions.d/${name}.fish \
          share/zsh/site-functions/_${name} ${lib.optionalString (lib.elem name daemons) "lib/systemd/catalog/cis490.catalog"}; do
          if [ ! -s ${package}/$file ]; then echo "${name}: $file is missing" >&2; exit 1; fi
        done
        for page in ${name} $(${lib.getExe package} __complete "" 2>/dev/null | sed -n 's/^\([a-z-]*\)\t.*/${name}-\1/p' | grep -v -e '-help$' -e '-completion$'); do
          if [ -z "$(find ${package}/share/man/man1 -name "$page.1*")" ]; then echo "$page: no manual page" >&2; exit 1; fi
        done
      '')
    names) + ''
    grep -q '^cis490-receiver modernc.org/sqlite' $out
  '');

  # What HCL would take for a template comes through as it was written.
  settings-are-literal =
    let
      organization = "A \${lab}, 100 %{percent} $${sure}";
      host = lib.nixosSystem {
        modules = [
          nixosModules.lab-host
          {
            nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
            services.cis490.labHost = {
              enable = true;
              caFile = null;
              settings = { inherit organization; data_dir = "/tmp/queue"; receiver.url = "https://receiver.example.org"; };
            };
          }
        ];
      };
    in
    pkgs.runCommand "settings-are-literal" { inherit organization; } ''
      mkdir -p results /tmp/queue/{open,sealed,.removing}
      echo 1 >results/one
      ${lib.getExe packages.cis490-episode} seal results --host lab-01 --config ${host.config.services.cis490.labHost.configFile}
      grep -Fx "Source-Organization: $organization" /tmp/queue/sealed/*/bag-info.txt >$out
    '';

  # The units as systemd reads them. Exposure is what systemd-analyze security gives, times ten.
  units-are-sound = pkgs.runCommand "units-are-sound" { nativeBuildInputs = [ pkgs.systemd pkgs.python3 ]; } ''
    python3 ${./units.py} ${../modules/README.md} ${packages.units} | tee $out
    mkdir -p /run/systemd root # systemd-analyze makes a directory of its own there
    cd root
    mkdir -p usr/local/bin usr/bin usr/lib/systemd/system
    cp ${packages.units}/bin/* usr/local/bin/
    touch usr/bin/kill; chmod +x usr/bin/kill
    for unit in ${packages.units}/lib/systemd/system/*.service; do
      cp $unit usr/lib/systemd/system/
      systemd-analyze --root=$PWD verify --man=no --recursive-errors=no ''${unit##*/}
      systemd-analyze security --offline=true --threshold=12 --no-pager $unit
    done | tee -a $out
    mkdir -p etc
    touch etc/passwd etc/group
    systemd-sysusers --root=$PWD ${packages.units}/lib/sysusers.d/*.conf
    cat ${packages.units}/lib/tmpfiles.d/*.conf | systemd-tmpfiles --root=$PWD --dry-run --create - 2>&1 | tee tmpfiles.log
    if grep -v '^Would create directory ' tmpfiles.log; then exit 1; fi
  '';
}
