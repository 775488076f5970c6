# The programs: built once, then one package for each, which holds that program alone with its manual pages and completions.
{ lib, buildGoModule, runCommand, symlinkJoin, version }:
let
  about = {
    cis490-demo = "The whole system on loopback in a temporary folder";
    cis490-doctor = "Say what is broken on a lab host or receiver, and how to mend it";
    cis490-episode = "Seal, verify, show, pack and unpack episodes";
    cis490-receiver = "Receive, verify and store the episodes of lab hosts";
    cis490-shipper = "Ship the sealed episodes of a lab host to the receiver";
  };
  daemons = [ "cis490-receiver" "cis490-shipper" ];
  meta = {
    license = lib.licenses.mit;
    platforms = lib.platforms.linux;
  };

  all = buildGoModule {
    pname = "cis490-programs";
    inherit version;
    src = lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.unions [ ../go.mod ../go.sum (lib.fileset.difference ../src ./package.nix) ];
    };
    # the NAR hash of what "go mod vendor" makes: nix hash path vendor
    vendorHash = "sha256-XG/brIYDHJ/GRxJFLTLPjG/+jaYUB8MLqEgzdkdR7gs=";
    subPackages = map (name: "src/cmd/${name}") (lib.attrNames about);
    env.CGO_ENABLED = 0;
    ldflags = [ "-s" "-w" "-X cis490/src/version.stamped=${version}" ];
    doCheck = false; # checks/run runs the tests, with what they need around them
    # Written by the same programs, built for this machine and with the command that does it.
    postInstall = ''
      (
        export GOOS=$(go env GOHOSTOS) GOARCH=$(go env GOHOSTARCH)
        go build -tags man -ldflags "-X cis490/src/version.stamped=${version}" -o pages/ ./src/cmd/...
      )
      for program in pages/*; do
        name=''${program##*/}
        mkdir -p $out/share/man/man1 $out/share/{bash-completion/completions,fish/vendor_completions.d,zsh/site-functions}
        $program man $out/share/man/man1
        $program completion bash >$out/share/bash-completion/completions/$name
        $program completion fish >$out/share/fish/vendor_completions.d/$name.fish
        $program completion zsh >$out/share/zsh/site-functions/_$name
      done
      install -D -m 644 src/code/cis490.catalog $out/lib/systemd/catalog/cis490.catalog
    '';
    inherit meta;
  };

  one = name: description: runCommand "${name}-${version}"
    {
      pname = name;
      inherit version;
      meta = meta // { inherit description; mainProgram = name; };
    } ''
    cd ${all}
    for file in bin/${name} share/man/man1/${name}.1* share/man/man1/${name}-*.1* share/bash-completion/completions/${name} \
      share/fish/vendor_completions.d/${name}.fish share/zsh/site-functions/_${name} \
      ${lib.optionalString (lib.elem name daemons) "lib/systemd/catalog/cis490.catalog"}; do
      if [ -e $file ]; then install -D --target-directory=$out/''${file%/*} --mode=$([ ''${file%%/*} = bin ] && echo 755 || echo 644) $file; fi
    done
  '';
  programs = lib.mapAttrs one about;
in
programs // {
  cis490 = symlinkJoin {
    name = "cis490-${version}";
    paths = lib.attrValues programs;
    meta = meta // { description = "All programs of cis490"; };
  };
  # For the check of vendorHash, and for overriding.
  cis490-programs = all;
}
