# What the doctor says where there is a systemd and a journal. The receiver takes nothing from before 2020, and few files at a time.
{
  nodes = {
    receiver.services.cis490.receiver = {
      enable = true;
      openFirewall = true;
      watchdogSec = 10;
      settings = {
        tls.names = [ "receiver" ];
        window.not_before = "2020-01-01T00:00:00Z";
        limits.episode_files = 20;
      };
    };
    lab1.services.cis490 = {
      labHost = {
        enable = true;
        caFile = "/etc/cis490/ca.crt";
        settings.receiver.url = "https://receiver:8490";
      };
      shipper = {
        watchdogSec = 10;
        settings = { scan_interval = "500ms"; poll_interval = "2s"; backoff_max = "2s"; };
      };
    };
  };
}
