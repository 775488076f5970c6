# receiver.hcl: what cis490-receiver needs to know.
# What is commented out shows the default, or an example where the default says so in words.
# Durations: ms, s, m, h, d, w. Sizes: KiB, MiB, GiB, TiB or kB, MB, GB, TB.

# Directory of the stored episodes, unfinished uploads, the catalogue and the CA. All of it has to
# be on one file system.
# Allowed: an absolute path. Default: /var/lib/cis490-receiver.
# state_dir = "/var/lib/cis490-receiver"

# Directory of the state file and the operator's socket. It may be emptied at each boot.
# Allowed: an absolute path. Default: /run/cis490-receiver.
# run_dir = "/run/cis490-receiver"

# Where hosts connect, over TLS.
# Allowed: host:port or :port, the port a number, such as ":8490" or "127.0.0.1:9490". Default:
# :8490.
# listen = ":8490"

# Where Prometheus metrics are served, over plain HTTP. Empty: nowhere.
# Allowed: host:port or :port, the port a number, such as ":8490" or "127.0.0.1:9490", or "" for
# none. Default: none.
# metrics_listen = "127.0.0.1:9491"

# Furthest that a host's clock may be from the receiver's. Beyond it the host keeps its episodes
# until its clock is right.
# Allowed: 1s to 1d. Default: 5m.
# max_skew = "5m"

# How long an unfinished upload is kept after its last byte. The host begins it anew after that.
# Allowed: 1s to 365d. Default: 7d.
# upload_max_age = "7d"

# Group whose members may use the operator's socket: list and read episodes, allow and revoke
# hosts.
# Allowed: the name of a group. Default: only the receiver's own user and root.
# operator_group = "cis490-operators"

# The receiver's certificate: issued by its own CA, or given as files.
tls {
  # Names and addresses by which hosts reach the receiver; the certificate is issued for them.
  # Allowed: a list of DNS names and IP addresses, such as ["receiver.example.org", "192.0.2.7"].
  # Default: this machine's host name, and "localhost".
  # names = ["receiver.example.org"]

  # Certificate of the receiver's own CA. Hosts need a copy of it (ca_file in lab-host.hcl).
  # Allowed: an absolute path. Default: ca/ca.crt in state_dir.
  # ca_cert_file = "/var/lib/cis490-receiver/ca/ca.crt"

  # Private key of that CA.
  # Allowed: an absolute path. Default: ca/ca.key in state_dir.
  # ca_key_file = "/var/lib/cis490-receiver/ca/ca.key"

  # Certificate chain from elsewhere, PEM. Read again when it changes. Needs key_file.
  # Allowed: an absolute path. Default: a certificate of the receiver's own CA.
  # cert_file = "/etc/cis490/receiver.crt"

  # Private key for cert_file, PEM.
  # Allowed: an absolute path. Default: a key that the receiver makes for itself.
  # key_file = "/etc/cis490/receiver.key"
}

# Which episodes are let in, by the time at which they ran. Others are refused as out-of-window,
# stay in quarantine on their host, and come by themselves once the window is widened.
window {
  # Oldest that an episode may be, counted from its end. 0s: no bound.
  # Allowed: 0s to 36500d. Default: 0s.
  # max_age = "90d"

  # Furthest that an episode may end in the future, by the receiver's clock.
  # Allowed: 0s to 36500d. Default: 10m.
  # max_ahead = "10m"

  # Earliest start of an episode.
  # Allowed: a time as RFC 3339 has it, with its zone: "2026-01-31T00:00:00Z". Default: no bound.
  # not_before = "2026-01-01T00:00:00Z"

  # Latest end of an episode.
  # Allowed: a time as RFC 3339 has it, with its zone: "2026-01-31T00:00:00Z". Default: no bound.
  # not_after = "2027-01-01T00:00:00Z"
}

# What one episode or one host may use.
limits {
  # Most bytes that the files of one episode may have.
  # Allowed: 1B to 1024TiB. Default: 64GiB.
  # episode_size = "64GiB"

  # Most files in one episode.
  # Allowed: 1 to 100000000. Default: 2000000.
  # episode_files = 2000000

  # Most bytes that one received byte may decompress to.
  # Allowed: 1 to 1000000. Default: 1000.
  # ratio = 1000

  # Most uploads at once.
  # Allowed: 1 to 100000. Default: 256.
  # uploads = 256

  # Most uploads at once from one host.
  # Allowed: 1 to 100000. Default: 32.
  # uploads_per_host = 32

  # Most bytes of unfinished uploads that are kept for one host.
  # Allowed: 1B to 1024TiB. Default: 256GiB.
  # partial_bytes_per_host = "256GiB"

  # Free space on state_dir's file system that no upload may eat into.
  # Allowed: 0B to 1024TiB. Default: 1GiB.
  # min_free = "1GiB"

  # What the receiver's memory is kept below, whatever arrives. With more of it, more uploads are
  # verified at a time.
  # Allowed: 96MiB to 1TiB. Default: 128MiB.
  # memory = "128MiB"

  # Most connections at once, and a quarter of them for one host. Beyond it, those that wait
  # longest for a request are closed.
  # Allowed: 16 to 1000000. Default: 512.
  # connections = 512

  # Most bytes in the header of a request.
  # Allowed: 4KiB to 1MiB. Default: 16KiB.
  # header_bytes = "16KiB"

  # Longest time in which not one byte of a request's body arrives.
  # Allowed: 100ms to 10m. Default: 30s.
  # stall_timeout = "30s"
}

# All that is stored is read again from time to time and compared with its digests, at the lowest
# priority: a disk that forgets is to be noticed while the host, or a backup, still has what it
# forgot. "cis490-receiver scrub" does it at once.
scrub {
  # How long after it was last read and found right each episode is read again. 0s: never.
  # Allowed: 0s to 3650d. Default: 30d.
  # every = "30d"

  # Most bytes of archives that are read per second. It has to be enough for the whole store
  # within every: 20MB/s is 50 TB in 30 days.
  # Allowed: 10kB/s to 1TiB/s, "unlimited", or "off" for none at all. Default: 20MB/s.
  # rate = "20MB/s"
}

# A host that may send episodes; one block for each. Others can be let in with "cis490-receiver
# hosts allow".
# host "lab-01" {
#   # SHA-256 of the host's public key, as "cis490-shipper status" shows it on that host.
#   # Allowed: sha256: and 64 lower-case hexadecimal digits, as "cis490-shipper status" shows it on
#   # the host. It has to be set.
#   key = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
# }
