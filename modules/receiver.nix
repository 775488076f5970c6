# cis490-receiver.service: admits, verifies and stores what lab hosts send.
{ config, lib, pkgs, ... }:
let
  cis490 = import ./common.nix { inherit lib pkgs; };
  inherit (lib) mkOption types;
  cfg = config.services.cis490.receiver;
  block = cis490.blocks.receiver;
  settings = cfg.settings;
  credentials = "/run/credentials/cis490-receiver.service";

  tls = lib.optionalAttrs (cfg.keyFile != null) { cert_file = "${credentials}/cert"; key_file = "${credentials}/key"; }
    // lib.optionalAttrs (cfg.caKeyFile != null) { ca_cert_file = "${credentials}/ca-cert"; ca_key_file = "${credentials}/ca-key"; };
  ownCA = cfg.keyFile == null && cfg.caKeyFile == null;

  file = cis490.configFile {
    name = "receiver.hcl.json";
    settings = settings // { tls = settings.tls // tls; };
    check = "${lib.getExe cfg.package} check-config --no-files"; # what it names is only on the receiver
    options = "services.cis490.receiver.settings";
  };
  port = builtins.match ".*:([1-9][0-9]{0,4})" settings.listen;

  secret = what: mkOption {
    type = types.nullOr types.path;
    default = null;
    example = "/run/secrets/${what}";
    description = "";
  };
  pem = description: secret "receiver.pem" // { inherit description; };
in
{
  imports = [ ./doctor.nix ];

  options.services.cis490.receiver = cis490.daemonOptions "cis490-receiver" // {
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Open the port of `settings.listen`, on which lab hosts connect.";
    };
    certFile = pem "Certificate chain of the receiver from elsewhere, PEM. Needs {option}`services.cis490.receiver.keyFile`. Without the two the receiver's own CA issues its certificate.";
    keyFile = pem "Private key for {option}`services.cis490.receiver.certFile`, PEM, read as root and handed over by systemd. A path outside the store.";
    caFile = pem "Certificate of the CA that issues the receiver's certificate, PEM, the same file as on the lab hosts. Needs {option}`services.cis490.receiver.caKeyFile`. Without the two the receiver makes its CA once, in `state_dir`.";
    caKeyFile = pem "Private key of {option}`services.cis490.receiver.caFile`, PEM, read as root and handed over by systemd. A path outside the store.";
    settings = cis490.settingsOption (block // {
      doc = ''
        What the receiver needs to know: /etc/cis490/receiver.hcl.json. Where its certificate comes from say
        {option}`services.cis490.receiver.certFile` and {option}`services.cis490.receiver.caFile`.
      '';
      blocks = block.blocks // {
        tls = block.blocks.tls // { attrs = { inherit (block.blocks.tls.attrs) names; }; };
      };
    });
    configFile = mkOption {
      type = types.package;
      readOnly = true;
      default = file;
      defaultText = lib.literalMD "made from the settings, and checked";
      description = "The configuration file.";
    };
  };

  config = lib.mkIf cfg.enable (lib.mkMerge [
    {
      assertions = [
        {
          assertion = lib.hasPrefix "/run/" settings.run_dir;
          message = "services.cis490.receiver.settings.run_dir has to be below /run, which is made anew at each boot: set it to \"/run/cis490-receiver\".";
        }
        {
          assertion = !cfg.openFirewall || port != null;
          message = "services.cis490.receiver.settings.listen is \"${settings.listen}\", which has no port that services.cis490.receiver.openFirewall could open: set it to \":8490\", or to an address with a port.";
        }
        {
          assertion = (cfg.certFile == null) == (cfg.keyFile == null);
          message = "services.cis490.receiver.certFile and services.cis490.receiver.keyFile go together: set both, or neither.";
        }
        {
          assertion = (cfg.caFile == null) == (cfg.caKeyFile == null);
          message = "services.cis490.receiver.caFile and services.cis490.receiver.caKeyFile go together: set both, or neither.";
        }
        {
          assertion = cfg.keyFile == null || cfg.caKeyFile == null;
          message = "services.cis490.receiver.keyFile and services.cis490.receiver.caKeyFile: the certificate either comes from elsewhere or is issued by the receiver's CA. Take out one of the two.";
        }
      ] ++ map
        (option: {
          assertion = cfg.${option} == null || !(cis490.isInStore cfg.${option});
          message = "services.cis490.receiver.${option} is in the Nix store, which everyone can read: give its path in quotes, such as \"/run/secrets/${option}\".";
        }) [ "keyFile" "caKeyFile" ];

      services.cis490.receiver.settings = {
        metrics_listen = lib.mkIf cfg.metrics.enable (lib.mkDefault "127.0.0.1:9491");
        operator_group = lib.mkDefault "cis490-receiver";
      };
      environment.systemPackages = [ cfg.package config.services.cis490.doctor.package ];
      environment.etc."cis490/receiver.hcl.json".source = cfg.configFile;
      networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall (map lib.toInt port);
      systemd.tmpfiles.settings."10-cis490-receiver".${settings.state_dir}.d = {
        mode = "0750";
        user = "cis490-receiver";
        group = "cis490-receiver";
      };
      # The members are the operators: they may read what is stored, allow and revoke hosts.
      users.groups.cis490-receiver = { };
      users.users.cis490-receiver = {
        isSystemUser = true;
        group = "cis490-receiver";
        description = "Stores episodes";
      };
      systemd.services.cis490-receiver = lib.mkMerge [
        (cis490.service {
          inherit cfg;
          name = "cis490-receiver";
          command = "serve";
          description = "Receive, verify and store episodes";
          config = "/etc/cis490/receiver.hcl.json";
          user = "cis490-receiver";
          group = "cis490-receiver";
          dir = settings.state_dir;
          runDir = settings.run_dir;
          reload = [ cfg.configFile ];
          # What a reload does not take over. The unit itself names state_dir and run_dir.
          restart = [
            (builtins.toJSON {
              inherit (settings) listen metrics_listen operator_group tls;
              inherit (settings.limits) min_free header_bytes;
            })
          ];
        })
        {
          serviceConfig.LoadCredential =
            lib.optionals (cfg.keyFile != null) [ "cert:${cfg.certFile}" "key:${cfg.keyFile}" ]
            ++ lib.optionals (cfg.caKeyFile != null) [ "ca-cert:${cfg.caFile}" "ca-key:${cfg.caKeyFile}" ];
          serviceConfig.ExecStartPre = lib.mkIf ownCA
            "-${lib.getExe cfg.package} ca init --config /etc/cis490/receiver.hcl.json"; # serve says what is wrong, by its exit status too
        }
      ];
    }
    cis490.catalogue
  ]);
}
