# The same units for hosts without NixOS: a tree for /usr/local, where systemd looks for units, users, directories and catalogues too.
{ lib, pkgs, programs, nixosModules }:
let
  # Paths as they are on such a host.
  translate = lib.replaceStrings
    [
      "${pkgs.coreutils}/bin/kill"
      (lib.getExe programs.cis490-shipper)
      (lib.getExe programs.cis490-receiver)
      "/etc/cis490/lab-host.hcl.json"
      "/etc/cis490/receiver.hcl.json"
    ]
    [
      "/usr/bin/kill"
      "/usr/local/bin/cis490-shipper"
      "/usr/local/bin/cis490-receiver"
      "/etc/cis490/lab-host.hcl"
      "/etc/cis490/receiver.hcl"
    ];

  of = role: settings:
    let
      inherit (lib.nixosSystem {
        modules = [ nixosModules.default { nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system; } settings ];
      }) config;
      # NixOS gives every unit a PATH of its store, and notes when to restart it. Whether it writes how to enable one depends on its version.
      lines = lib.filter (line: !(lib.hasPrefix "Environment=" line) && !(lib.hasPrefix "X-" line))
        (lib.splitString "\n" (lib.head (lib.splitString "\n[Install]" config.systemd.units."cis490-${role}.service".text)))
      ++ [ "[Install]" "WantedBy=${toString config.systemd.services."cis490-${role}".wantedBy}" "" ];
      users = lib.filterAttrs (name: _: name == "cis490-${role}") config.users.users;
      tmpfiles = lib.mapAttrsToList
        (path: rule: "d ${path} ${rule.d.mode} ${rule.d.user} ${rule.d.group} -")
        (lib.foldl' (all: name: all // config.systemd.tmpfiles.settings.${name} or { }) { } [ "10-cis490" "10-cis490-receiver" ]);
    in
    {
      # Nothing of the store is left in it, which is checked below.
      unit = builtins.unsafeDiscardStringContext (translate (lib.concatStringsSep "\n" lines));
      sysusers = lib.concatStrings (lib.mapAttrsToList
        (name: user: "g ${user.group} -\nu ${name} -:${user.group} \"${user.description}\"\n")
        users);
      tmpfiles = lib.concatLines tmpfiles;
    };
  hosts = {
    shipper = of "shipper" {
      services.cis490.labHost = { enable = true; caFile = null; settings.receiver.url = "https://receiver.example.org:8490"; };
      services.cis490.shipper.package = lib.mkForce programs.cis490-shipper;
    };
    receiver = of "receiver" {
      services.cis490.receiver = { enable = true; package = lib.mkForce programs.cis490-receiver; };
    };
  };
  text = name: value: pkgs.writeText name value;
in
pkgs.runCommand "cis490-units" { } (''
  mkdir -p $out
  cp -rL --no-preserve=mode ${programs.cis490}/share ${programs.cis490}/lib $out/
  mkdir -p $out/bin $out/lib/{systemd/system,sysusers.d,tmpfiles.d}
  cp -L ${programs.cis490}/bin/* $out/bin/
'' + lib.concatStrings (lib.mapAttrsToList
  (role: host: ''
    cp ${text "unit" host.unit} $out/lib/systemd/system/cis490-${role}.service
    cp ${text "sysusers" host.sysusers} $out/lib/sysusers.d/cis490-${role}.conf
    cp ${text "tmpfiles" host.tmpfiles} $out/lib/tmpfiles.d/cis490-${role}.conf
  '')
  hosts) + ''
  if grep -r ${builtins.storeDir} $out/lib/systemd/system $out/lib/sysusers.d $out/lib/tmpfiles.d; then
    echo "a path of the store is left in what is for hosts without one" >&2
    exit 1
  fi
'')
