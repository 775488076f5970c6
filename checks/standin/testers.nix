# testers.runNixOSTest: evaluates the nodes of a scenario and gives .driver, which boots each as a container that runs systemd and runs the
# testScript with the calls of the NixOS test driver (driver/). The test itself only builds the driver, and says so: checks/run runs it.
{ lib, pkgs, nixosSystem }:
{
  runNixOSTest =
    module:
    let
      inherit (lib) mkOption types;
      test =
        (lib.evalModules {
          class = "nixosTest";
          modules = [
            {
              _file = "the stand-in for NixOS tests";
              options = {
                name = mkOption { type = types.str; };
                nodes = mkOption { type = types.lazyAttrsOf types.raw; };
                defaults = mkOption { type = types.raw; default = { }; };
                testScript = mkOption { type = types.either types.str (types.functionTo types.str); };
                globalTimeout = mkOption { type = types.int; default = 3600; };
              };
            }
            module
          ];
        }).config;

      # What only the nodes of tests have.
      virtualisation = {
        _file = "nixos/modules/virtualisation/qemu-vm.nix";
        options.virtualisation = {
          diskSize = mkOption { type = types.ints.positive; default = 1024; };
          memorySize = mkOption { type = types.ints.positive; default = 1024; };
          emptyDiskImages = mkOption { type = types.listOf types.ints.positive; default = [ ]; };
        };
      };
      nodes = lib.mapAttrs (
        name: node:
        (nixosSystem {
          modules = [
            virtualisation
            test.defaults
            node
            {
              nixpkgs.hostPlatform = lib.mkDefault pkgs.system;
              networking.hostName = lib.mkDefault name;
            }
          ];
        }).config
      ) test.nodes;

      config = pkgs.writeText "${test.name}.json" (builtins.toJSON {
        inherit (test) name globalTimeout;
        testScript = if lib.isFunction test.testScript then test.testScript { inherit nodes; } else test.testScript;
        nodes = lib.mapAttrs (_: node: {
          toplevel = "${node.system.build.toplevel}";
          inherit (node.virtualisation) diskSize;
          emptyDisks = node.virtualisation.emptyDiskImages;
        }) nodes;
      });
      # What the script can name, for the type checker.
      symbols = pkgs.writeText "symbols.py" (''
        from typing import Callable, ContextManager
        from machine import Logger, Machine, Tester, retry

        log: Logger
        t: Tester
        subtest: Callable[[str], ContextManager[None]]
        start_all: Callable[[], None]
        join_all: Callable[[], None]
      '' + lib.concatMapStrings (name: "${lib.replaceStrings [ "-" ] [ "_" ] name}: Machine\n") (lib.attrNames nodes));
      driver = pkgs.runCommand "nixos-test-driver-${test.name}-stand-in" { meta.mainProgram = "nixos-test-driver"; } ''
        python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["testScript"])' ${config} | cat ${symbols} - >script.py
        MYPYPATH=${./driver} mypy --no-error-summary --cache-dir=/dev/null script.py
        mkdir -p $out/bin
        cat >$out/bin/nixos-test-driver <<'END'
        #!/bin/bash
        if [ -z "''${RIG_WORK-}" ]; then
          echo "not run: a scenario needs the namespaces of checks/rig: checks/run scenarios ${test.name}" >&2
          exit 3
        fi
        exec python3 -B ${./driver} ${config} "$@"
        END
        chmod +x $out/bin/nixos-test-driver
      '';
    in
    pkgs.runCommand "vm-test-run-${test.name}-stand-in" { passthru = { inherit driver nodes; config = test; }; } ''
      mkdir $out
      echo "not run: ${test.name}: the stand-in for nixpkgs builds its driver, ${driver}; checks/run scenarios ${test.name} runs it" | tee $out/not-run
    '';
}
