# What is in quarantine for longer than its owner wants to keep it. The receiver takes nothing from before 2020, which gives entries.
{
  nodes = {
    receiver.services.cis490.receiver = {
      enable = true;
      openFirewall = true;
      settings = {
        tls.names = [ "receiver" ];
        window.not_before = "2020-01-01T00:00:00Z";
      };
    };
    lab1.services.cis490 = {
      labHost = {
        enable = true;
        caFile = "/etc/cis490/ca.crt";
        settings.receiver.url = "https://receiver:8490";
      };
      shipper.settings = {
        quarantine_keep_days = 0;
        quarantine_cleanup_interval_s = 8;
        scan_interval = "500ms";
      };
    };
  };
}
