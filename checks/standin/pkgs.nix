# The packages of nixpkgs that the project uses. What is built (Go programs, files, scripts) is really built, in Nix's sandbox, with the tools
# that checks/nix puts there: Debian's in /usr, the machine's Go in /go. What only has to be there is a link to the machine's own program.
{ lib, system }:
let
  goarch =
    {
      x86_64-linux = "amd64";
      aarch64-linux = "arm64";
    }
    .${system};
  platform = {
    inherit system;
    isLinux = true;
    canExecute = other: other.system == system;
  };

  stdenv = {
    hostPlatform = platform;
    buildPlatform = platform;
    inherit mkDerivation;
  };
  # Ends in a builtin: bash runs a last program in its own place, programs of coreutils close their output before they exit, and Nix, which
  # takes that for the builder's end, kills it before it has exited.
  setup = derivation {
    inherit system;
    name = "stand-in-stdenv";
    builder = "/bin/bash";
    args = [
      "-c"
      "/usr/bin/mkdir $out && /usr/bin/cp ${./setup.sh} $out/setup; exit"
    ];
  };

  # mkDerivation ATTRS, or a function of the final ones. All that is not about the package goes into the environment of the build.
  mkDerivation =
    given:
    let
      attrs = lib.fix (if lib.isFunction given then given else _: given);
      name = attrs.name or "${attrs.pname}-${attrs.version}";
      drv = derivation (
        removeAttrs attrs [
          "meta"
          "passthru"
          "env"
        ]
        // attrs.env or { }
        // {
          inherit name system;
          outputs = attrs.outputs or [ "out" ]; # nix develop reads it in the environment
          stdenv = setup;
          builder = "/bin/bash";
          args = [
            "-c"
            ''
              source $stdenv/setup
              if [ -n "''${buildCommand-}" ]; then eval "$buildCommand"; else genericBuild; fi
              exit
            ''
          ];
        }
      );
    in
    drv
    // {
      inherit name;
      pname = attrs.pname or (lib.getName name);
      version = attrs.version or (lib.getVersion name);
      meta = {
        inherit name;
      }
      // attrs.meta or { };
      passthru = attrs.passthru or { };
      overrideAttrs = f: mkDerivation (final: attrs // f attrs);
    }
    // attrs.passthru or { };

  runCommand =
    name: env: buildCommand:
    mkDerivation ({ inherit name buildCommand; } // env);

  writeTextFile =
    {
      name,
      text,
      destination ? "",
      executable ? false,
      meta ? { },
    }:
    runCommand name
      {
        inherit text meta;
        passAsFile = [ "text" ];
      }
      ''
        install -D -m ${if executable then "755" else "644"} "$textPath" "$out${destination}"
      '';

  # The Go modules as go mod vendor leaves them, fixed by vendorHash; and from them the programs.
  buildGoModule =
    given:
    let
      attrs = lib.fix (if lib.isFunction given then given else _: given);
      known = [
        "pname" "version" "src" "vendorHash" "subPackages" "ldflags" "tags" "env" "nativeBuildInputs" "doCheck" "checkFlags" "meta" "passthru"
        "postPatch" "preBuild" "postBuild" "preCheck" "postInstall" "outputs"
      ];
      unknown = removeAttrs attrs known;
      env = {
        GO111MODULE = "on";
        GOTOOLCHAIN = "local";
        GOOS = "linux";
        GOARCH = goarch;
      }
      // lib.mapAttrs (_: toString) (attrs.env or { });
      prepare = ''
        export PATH=/go/bin:$PATH GOPATH=$TMPDIR/go GOMODCACHE=$TMPDIR/modules GOTELEMETRY=off GOSUMDB=off
        if [ -d /gocache ]; then export GOCACHE=/gocache; else export GOCACHE=$TMPDIR/cache; fi
        ${attrs.postPatch or ""}
      '';
      goModules = mkDerivation {
        name = "${attrs.pname}-${attrs.version}-go-modules";
        inherit (attrs) src;
        inherit env;
        impureEnvVars = [ "GOPROXY" ];
        outputHashMode = "recursive";
        outputHashAlgo = "sha256";
        outputHash = attrs.vendorHash;
        buildPhase = ''
          ${prepare}
          go mod vendor
        '';
        installPhase = "cp -r vendor $out";
      };
    in
    if unknown != { } then
      throw "buildGoModule: ${lib.head (lib.attrNames unknown)} is not in the stand-in"
    else
      mkDerivation (
        attrs
        // {
          inherit env;
          doCheck = attrs.doCheck or true;
          passthru = { inherit goModules; } // attrs.passthru or { };
          ldflags = lib.escapeShellArg (toString (attrs.ldflags or [ ]));
          tags = lib.concatStringsSep "," (attrs.tags or [ ]);
          configurePhase = ''
            ${prepare}
            cp -r ${goModules} vendor
            export GOPROXY=off GOFLAGS="-mod=vendor -trimpath"
          '';
          buildPhase = ''
            runHook preBuild
            for package in ''${subPackages:-./...}; do
              eval "go install -p $NIX_BUILD_CORES ''${tags:+-tags $tags} -ldflags $ldflags ./''${package#./}"
            done
            runHook postBuild
          '';
          checkPhase = ''
            runHook preCheck
            for package in ''${subPackages:-./...}; do
              go test -vet=off ''${tags:+-tags $tags} $checkFlags "./''${package#./}"
            done
          '';
          installPhase = ''
            mkdir -p $out
            if [ -d $GOPATH/bin/linux_${goarch} ]; then mv $GOPATH/bin/linux_${goarch} $out/bin; else mv $GOPATH/bin $out/bin; fi
            runHook postInstall
          '';
        }
      );

  # The machine's own programs, of the package that has them in nixpkgs.
  machine = machineIn "bin";
  machineIn =
    dir: name: programs:
    runCommand "${name}-stand-in" { meta.mainProgram = lib.head programs; } ''
      mkdir -p $out/bin
      for program in ${toString programs}; do ln -s /usr/${dir}/$program $out/bin/$program; done
    '';

  pkgs = {
    inherit
      lib
      stdenv
      runCommand
      writeTextFile
      buildGoModule
      ;
    inherit system;
    writeText = name: text: writeTextFile { inherit name text; };
    writeShellScript =
      name: text:
      writeTextFile {
        inherit name;
        text = "#!/bin/bash\n${text}";
        executable = true;
      };
    symlinkJoin =
      {
        name,
        paths,
        postBuild ? "",
        meta ? { },
      }:
      runCommand name { inherit meta; } ''
        mkdir -p $out
        for path in ${toString paths}; do cp -rsf --no-preserve=mode $path/. $out/; done
        ${postBuild}
      '';
    mkShell =
      {
        packages ? [ ],
        env ? { },
        shellHook ? "",
      }:
      mkDerivation {
        name = "nix-shell";
        nativeBuildInputs = packages;
        inherit env shellHook;
        buildCommand = "export >$out";
      };
    formats.json =
      { }:
      {
        type = lib.types.json;
        generate =
          name: value:
          runCommand name
            {
              value = builtins.toJSON value;
              passAsFile = [ "value" ];
            }
            ''
              python3 -m json.tool --no-ensure-ascii --indent 2 "$valuePath" $out
            '';
      };
    installShellFiles = runCommand "install-shell-files-stand-in" { } ''
      install -D ${./install-shell-files.sh} $out/nix-support/setup-hook
    '';
    # nixpkgs' formatter can't be had here, and nothing else formats as it does.
    nixfmt-tree = writeTextFile {
      name = "nixfmt-tree-stand-in";
      destination = "/bin/treefmt";
      executable = true;
      text = ''
        #!/bin/bash
        echo "nix fmt: the stand-in for nixpkgs has no nixfmt; nothing is formatted" >&2
        exit 1
      '';
      meta.mainProgram = "treefmt";
    };
    go = runCommand "go-stand-in" { meta.mainProgram = "go"; } ''
      mkdir -p $out/bin
      ln -s /go/bin/* $out/bin/
    '';
    bashInteractive = machine "bash" [ "bash" ];
    coreutils = machine "coreutils" [ "cat" "chmod" "chown" "cp" "install" "kill" "ln" "ls" "mkdir" "mv" "rm" "sleep" "true" ];
    findutils = machine "findutils" [ "find" "xargs" ];
    gnugrep = machine "gnugrep" [ "grep" ];
    gnused = machine "gnused" [ "sed" ];
    systemd = machine "systemd" [ "systemctl" "journalctl" "systemd-analyze" "systemd-notify" "systemd-run" "systemd-sysusers" "systemd-tmpfiles" ];
    python3 = machine "python3" [ "python3" ];
    gopls = machine "gopls" [ "gopls" ];
    curl = machine "curl" [ "curl" ];
    e2fsprogs = machineIn "sbin" "e2fsprogs" [ "mke2fs" "mkfs.ext4" ];
    nftables = machineIn "sbin" "nftables" [ "nft" ];
    testers = import ./testers.nix {
      inherit lib pkgs;
      inherit (lib) nixosSystem;
    };
    fuse3 = machine "fuse3" [ "fusermount3" ];
    rsync = machine "rsync" [ "rsync" ];
    strace = machine "strace" [ "strace" ];
    zstd = machine "zstd" [ "zstd" ];
  };
in
pkgs
