# lab-host.hcl: what the programs of cis490 on a lab host need to know.
# What is commented out shows the default, or an example where the default says so in words.
# Durations: ms, s, m, h, d, w. Sizes: KiB, MiB, GiB, TiB or kB, MB, GB, TB.

# Name of this host. The receiver files its episodes under it.
# Allowed: 1 to 63 of the characters a to z, 0 to 9 and -. Default: this machine's host name,
# without its domain.
# host = "lab-01"

# Directory of the episodes, the receipts and the host's key. All of it has to be on one file
# system.
# Allowed: an absolute path. Default: /var/lib/cis490.
# data_dir = "/var/lib/cis490"

# Directory of the state files and control sockets. It may be emptied at each boot.
# Allowed: an absolute path. Default: /run/cis490.
# run_dir = "/run/cis490"

# Who runs this lab; stands in each episode's bag-info.txt as Source-Organization.
# Allowed: any text of one line. Default: not stated.
# organization = "Operating Systems Lab, Example University"

# Free space on data_dir's file system below which no new episode is begun. Shipping goes on.
# Allowed: 0B to 1024TiB. Default: 1GiB.
# min_free = "1GiB"

# Where episodes are sent.
receiver {
  # Address of the receiver.
  # Allowed: https://host or https://host:port without a path; http:// only to this machine
  # itself. It has to be set.
  url = "https://receiver.example.org:8490"

  # PEM file with the certificate of the CA that issued the receiver's, as "cis490-receiver ca
  # init" makes it.
  # Allowed: an absolute path. Default: the certificate authorities that this machine trusts.
  # ca_file = "/etc/cis490/ca.crt"

  # Name that the receiver's certificate has to be for. Only needed when that differs from the
  # host in url.
  # Allowed: a DNS name or an IP address. Default: the host in url.
  # server_name = "receiver.example.org"
}

# How cis490-shipper works. The defaults suit most hosts.
shipper {
  # Time between two scans for sealed episodes, each of which also feeds the watchdog. New
  # episodes are noticed at once all the same.
  # Allowed: 100ms to 10m. Default: 5s.
  # scan_interval = "5s"

  # WatchdogSec= of the unit, for checking scan_interval, which may be at most half of it. Under
  # systemd the unit's own value counts.
  # Allowed: 1 to 86400. Default: 180.
  # watchdog_sec = 180

  # How many episodes are uploaded at once.
  # Allowed: 1 to 256. Default: 16.
  # upload_workers = 16

  # How many threads pack and compress, for all uploads together.
  # Allowed: 0 to 256. Default: 0.
  # pack_workers = 0

  # auto chooses for each frame what gets data across soonest, by the speed of the link and of the
  # CPU.
  # Allowed: "auto", "raw", "fastest", "default". Default: auto.
  # compression = "auto"

  # Longest wait for a connection, its TLS handshake included.
  # Allowed: 100ms to 10m. Default: 10s.
  # connect_timeout = "10s"

  # Longest time in which not one byte of an upload moves. Slow is not stalled.
  # Allowed: 100ms to 10m. Default: 30s.
  # stall_timeout = "30s"

  # Longest wait for an answer, or for a sign of life before it, once everything is sent.
  # Allowed: 100ms to 10m. Default: 60s.
  # response_timeout = "60s"

  # Wait after the first failure of the path to the receiver; it doubles with each further one.
  # Allowed: 10ms to 1h. Default: 1s.
  # backoff_min = "1s"

  # Longest such wait: how long after the path has healed a host may take to notice. There is no
  # last try.
  # Allowed: 10ms to 1d. Default: 15s.
  # backoff_max = "15s"

  # How often the receiver is asked for its window and its clock.
  # Allowed: 100ms to 1d. Default: 60s.
  # poll_interval = "60s"

  # How often the receiver is told how this host is, for "cis490-receiver hosts list"; sooner when
  # that changes. 0s: never.
  # Allowed: 0s to 1d. Default: 5m.
  # report_interval = "5m"

  # How long a stop waits for uploads to end. What is cut then goes on from there after the next
  # start.
  # Allowed: 0s to 1h. Default: 30s.
  # stop_timeout = "30s"

  # How long an episode is kept here after the receiver acknowledged it. 0s: removed at once.
  # Allowed: 0s to 3650d. Default: 0s.
  # keep_shipped = "0s"

  # Most bytes per second that all uploads together send, TLS included.
  # Allowed: 10kB/s to 1TiB/s, "unlimited", or "off" for none at all. Default: unlimited.
  # rate_limit = "20MB/s"

  # Age in days at which an episode in quarantine is removed for good. 0: never.
  # Allowed: 0 to 36500. Default: 30.
  # quarantine_keep_days = 30

  # Seconds between two such clean-ups.
  # Allowed: 1 to 2592000. Default: 3600.
  # quarantine_cleanup_interval_s = 3600

  # Where Prometheus metrics are served, over plain HTTP. Empty: nowhere.
  # Allowed: host:port or :port, the port a number, such as ":8490" or "127.0.0.1:9490", or "" for
  # none. Default: none.
  # metrics_listen = "127.0.0.1:9490"

  # Another rate_limit at some times of the week; any number of blocks. Where windows overlap the
  # lowest counts.
  # rate_window "office" {
  #   # Days on which the window begins.
  #   # Allowed: a list of days "mon", "tue", "wed", "thu", "fri", "sat", "sun" and ranges such as
  #   # "mon-fri". Default: every day.
  #   days = ["mon-fri"]
  #
  #   # When it begins, by this machine's local time.
  #   # Allowed: a time of day from "00:00" to "24:00". Default: 00:00.
  #   from = "08:00"
  #
  #   # When it ends. A time before from is one on the next day.
  #   # Allowed: a time of day from "00:00" to "24:00". Default: 24:00.
  #   to = "18:00"
  #
  #   # What holds then instead of the rate_limit outside.
  #   # Allowed: 10kB/s to 1TiB/s, "unlimited", or "off" for none at all. It has to be set.
  #   rate_limit = "2MB/s"
  # }
}
