# Settings that are wrong, each with what the message has to say: the option, and what is allowed or what to do. nixos-rebuild refuses each
# before anything is touched. checks/run flake builds each and looks at the message.
{ version ? "19700101.devel", lib ? import ./standin/lib }:
let
  outputs = import ./standin/outputs.nix { inherit version lib; };
  with' = host: module: outputs.nixosConfigurations.${host}.extendModules { modules = [ module ]; };
  labHost = with' "lab-host";
  receiver = with' "receiver";
  key = c: "sha256:${builtins.concatStringsSep "" (builtins.genList (_: c) 64)}";

  case = system: says: { inherit system says; };
  table = {
    unknown-key = case (labHost { services.cis490.shipper.settings.scan_intervall = "5s"; }) [ "scan_intervall" "scan_interval" "services.cis490.shipper.settings" ];
    unknown-block = case (receiver { services.cis490.receiver.settings.windows.max_age = "30d"; }) [ "windows" "services.cis490.receiver.settings" ];
    unknown-option = case (labHost { services.cis490.shipper.interval = "5s"; }) [ "services.cis490.shipper.interval" "does not exist" ];
    wrong-type = case (labHost { services.cis490.shipper.settings.pack_workers = "two"; }) [ "services.cis490.shipper.settings.pack_workers" "integer between 0 and 256" ];
    number-out-of-range = case (labHost { services.cis490.shipper.settings.quarantine_keep_days = -1; }) [ "services.cis490.shipper.settings.quarantine_keep_days" "integer between 0 and 36500" ];
    not-one-of-them = case (labHost { services.cis490.shipper.settings.compression = "best"; }) [ "services.cis490.shipper.settings.compression" ''"fastest"'' ];
    bad-duration = case (labHost { services.cis490.shipper.settings.scan_interval = "5 parsecs"; }) [ "services.cis490.shipper.settings.scan_interval" ];
    duration-out-of-range = case (labHost { services.cis490.shipper.settings.scan_interval = "11m"; }) [ "scan_interval" "100ms to 10m" "services.cis490.shipper.settings" ];
    scan-slower-than-half-the-watchdog = case (labHost { services.cis490.shipper = { watchdogSec = 20; settings.scan_interval = "11s"; }; }) [ "scan_interval" "watchdog" "services.cis490.shipper.settings" ];
    watchdog-too-short = case (labHost { services.cis490.shipper.watchdogSec = 5; }) [ "services.cis490.shipper.watchdogSec" "integer between 10 and 86400" ];
    no-url = case (receiver { services.cis490.labHost = { enable = true; caFile = null; }; }) [ "services.cis490.labHost.settings.receiver.url" ];
    url-with-a-path = case (labHost ({ lib, ... }: { services.cis490.labHost.settings.receiver.url = lib.mkForce "https://receiver.example.org/up"; })) [ "url" "without a path" "services.cis490.labHost.settings" ];
    url-without-tls = case (labHost ({ lib, ... }: { services.cis490.labHost.settings.receiver.url = lib.mkForce "http://receiver.example.org:8490"; })) [ "url" "https://" "services.cis490.labHost.settings" ];
    ca-not-said = case (receiver { services.cis490.labHost = { enable = true; settings.receiver.url = "https://receiver.example.org"; }; }) [ "services.cis490.labHost.caFile" "ca/ca.crt" ];
    ca-not-there = case (labHost ({ lib, ... }: { services.cis490.labHost.caFile = lib.mkForce ./nowhere.crt; })) [ "services.cis490.labHost.caFile" "nowhere.crt" ];
    ca-is-no-certificate = case (labHost ({ lib, ... }: { services.cis490.labHost.caFile = lib.mkForce ./mistakes.nix; })) [ "ca_file" "services.cis490.labHost.caFile" ];
    template-in-a-name = case (labHost { services.cis490.labHost.settings.host = "lab-\${number}"; }) [ "services.cis490.labHost.settings.host" "[a-z0-9-]" ];
    two-lines = case (labHost { services.cis490.labHost.settings.organization = "A lab\nand a half"; }) [ "organization" "one line" "services.cis490.labHost.settings" ];
    two-hosts-with-one-key = case (receiver { services.cis490.receiver.settings.host = { lab-02.key = key "a"; lab-03.key = key "a"; }; }) [ "lab-02" "lab-03" "key" "services.cis490.receiver.settings" ];
    key-cut-short = case (receiver { services.cis490.receiver.settings.host.lab-02.key = "sha256:abc"; }) [ "services.cis490.receiver.settings.host.lab-02.key" ];
    relative-path = case (labHost { services.cis490.labHost.settings.data_dir = "var/lib/cis490"; }) [ "services.cis490.labHost.settings.data_dir" "absolute path" ];
    relative-path-of-the-receiver = case (receiver { services.cis490.receiver.settings.state_dir = "cis490"; }) [ "services.cis490.receiver.settings.state_dir" "absolute path" ];
    run-dir-that-stays = case (labHost { services.cis490.labHost.settings.run_dir = "/var/lib/cis490-run"; }) [ "services.cis490.labHost.settings.run_dir" "/run" ];
    key-in-the-store = case (receiver { services.cis490.receiver = { certFile = "/run/secrets/receiver.crt"; keyFile = ../nixos/ca.crt; }; }) [ "services.cis490.receiver.keyFile" "/run/secrets" ];
    ca-key-in-the-store = case (receiver { services.cis490.receiver = { caFile = ../nixos/ca.crt; caKeyFile = "${../nixos/ca.crt}"; }; }) [ "services.cis490.receiver.caKeyFile" "/run/secrets" ];
    certificate-without-key = case (receiver { services.cis490.receiver.certFile = "/run/secrets/receiver.crt"; }) [ "services.cis490.receiver.keyFile" ];
    two-certificates = case (receiver { services.cis490.receiver = { certFile = "/c"; keyFile = "/k"; caFile = "/ca"; caKeyFile = "/cak"; }; }) [ "services.cis490.receiver.keyFile" "services.cis490.receiver.caKeyFile" ];
    empty-window = case (receiver { services.cis490.receiver.settings.window = { not_before = "2026-03-01T00:00:00Z"; not_after = "2026-02-01T00:00:00Z"; }; }) [ "not_before" "not_after" "services.cis490.receiver.settings" ];
    date-that-is-none = case (receiver { services.cis490.receiver.settings.window.not_before = "2026-02-30"; }) [ "not_before" "services.cis490.receiver.settings" ];
    listen-without-a-port = case (receiver { services.cis490.receiver.settings.listen = "receiver.example.org"; }) [ "services.cis490.receiver.settings.listen" ];
    no-free-space-kept = case (receiver { services.cis490.receiver.settings.limits.min_free = "20 elephants"; }) [ "services.cis490.receiver.settings.limits.min_free" ];
  };
in
{
  says = builtins.mapAttrs (_: mistake: mistake.says) table;
  build = builtins.mapAttrs (_: mistake: mistake.system.config.system.build.toplevel) table;
}
