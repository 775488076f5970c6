# What the scenarios have in common: it stands before each of them.
import json

SHIPPER = "cis490-shipper.service"
RECEIVER = "cis490-receiver.service"
sealed = {}  # what was sealed: the bag digest by id, by host
sources = {}  # what lay in the directory that an episode was made of: digests, by id


def trust(*hosts):
    """Gives the hosts the receiver's CA and lets them in, as nixos/README.md says."""
    receiver.wait_for_unit(RECEIVER)
    receiver.wait_for_open_port(8490)
    ca = receiver.succeed("cat /var/lib/cis490-receiver/ca/ca.crt")
    for host in hosts:
        host.succeed(f"echo '{ca}' >/etc/cis490/ca.crt; systemctl restart {SHIPPER}")
        receiver.succeed(f"cis490-receiver hosts allow {host.name} {status(host)['key']}")
        sealed[host.name] = {}


def status(host):
    """What the shipper says of itself."""
    return json.loads(host.succeed("cis490-shipper status --json"))


def seal(host, kib, name="run", options=""):
    """Puts an episode of so many KiB, which don't compress, into the host's queue; its id. The source stays in /root."""
    run = f"/root/{name}"
    host.succeed(f"rm -rf {run}; mkdir -p {run}/notes; echo {name} >{run}/notes/name; head -c {kib}K /dev/urandom >{run}/data")
    return seal_dir(host, run, f"cis490-episode seal --json {options}")


def seal_dir(host, dir, command="cis490-episode seal --json"):
    """Seals a directory that is there; the episode's id."""
    source = digests(host, dir)
    episode = json.loads(host.succeed(f"{command} {dir}"))
    sealed[host.name][episode["id"]] = episode["digest"]
    sources[episode["id"]] = source
    return episode["id"]


def digests(host, dir):
    """The SHA-256 of each file below dir, by path."""
    lines = host.succeed(f"cd {dir} && find . -type f -exec sha256sum {{}} +").splitlines()
    return {path: digest for digest, path in (line.split(maxsplit=1) for line in lines)}


def acknowledged(host):
    """The host's ledger: (id, digest) of each receipt, as often as it stands there."""
    lines = host.succeed("cat /var/lib/cis490/receipts/*.jsonl 2>/dev/null || true").splitlines()
    return [(r["episode"], r["bag_digest"]) for r in map(json.loads, lines)]


def stored(host):
    """What the receiver has of a host: (id, digest)."""
    lines = receiver.succeed(f"cis490-receiver episodes list --host {host.name} --json").splitlines()
    return [(r["episode"], r["bag_digest"]) for r in (json.loads(line)["receipt"] for line in lines)]


def wait_acknowledged(host, timeout=120):
    """Waits until the host has nothing left to send."""
    want = set(sealed[host.name].items())
    with subtest(f"{host.name}: {len(want)} sealed, until all are acknowledged"):
        retry(lambda _: set(acknowledged(host)) == want, timeout_seconds=timeout)


def ledgers_agree(*hosts):
    """sealed = acknowledged = stored, each once and with its digest, read again from the receiver's disk; nothing lies about."""
    for host in hosts:
        wait_acknowledged(host)
        want = sorted(sealed[host.name].items())
        t.assertEqual(sorted(acknowledged(host)), want, f"{host.name}: the receipts")
        t.assertEqual(sorted(stored(host)), want, f"{host.name}: what is stored")
        left = "find /var/lib/cis490/{open,sealed,uploads} -mindepth 1 -maxdepth 1 -name '[0-9a-f]*-*'"
        host.wait_until_succeeds(f"{left} | tee /dev/stderr | {{ ! grep -q . ; }}", timeout=30)
        t.assertEqual(status(host)["quarantine"]["total"], 0, f"{host.name}: in quarantine")
    everything = sum(len(episodes) for episodes in sealed.values())
    archives = receiver.succeed("find /var/lib/cis490-receiver/episodes -name '*.tar.zst' | wc -l")
    t.assertEqual(int(archives), everything, "archives on the receiver's disk")
    ids = " ".join(id for episodes in sealed.values() for id in episodes)
    receiver.succeed(f"cis490-receiver episodes verify {ids}")


def show(host, unit, property):
    return host.get_unit_info(unit)[property]


def journal(host, unit, since=""):
    """Its lines, with the fields as journald has them."""
    after = f"--after-cursor='{since}'" if since else ""
    return [json.loads(line) for line in host.succeed(f"journalctl --quiet -u {unit} {after} -o json --no-pager").splitlines()]


def uptime(host):
    return float(host.succeed("cut -d' ' -f1 /proc/uptime"))


def received(host):
    """Bytes that arrived at its network interface so far."""
    return int(host.succeed("awk '$1 == \"eth1:\" { print $2 }' /proc/net/dev"))
