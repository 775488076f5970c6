INCOMING = "/var/lib/cis490-receiver/incoming"


def slow(rate, *hosts):
    for host in hosts:
        host.succeed(f"tc qdisc replace dev eth1 root tbf rate {rate} burst 64kb latency 400ms")


def fast(*hosts):
    for host in hosts:
        host.succeed("tc qdisc del dev eth1 root")


def under_way(kib=2000):
    receiver.wait_until_succeeds(f"test $(du -sk {INCOMING} | cut -f1) -gt {kib}", timeout=60)


def lossy(host, percent):
    """Of what arrives so much is lost."""
    host.succeed(
        "nft add table ip loss",
        "nft 'add chain ip loss in { type filter hook input priority 0; }'",
        f"nft add rule ip loss in iifname eth1 numgen random mod 100 '<' {percent} drop",
    )


def fill(host, dir, leave):
    """Fills the file system of dir but for so many KiB."""
    host.succeed(f"fallocate -l $(($(df -k --output=avail {dir} | tail -1) - {leave}))K {dir}/filler")


start_all()
trust(lab1, lab2)

with subtest("nothing in the way"):
    for host in (lab1, lab2):
        for n in range(3):
            seal(host, 300, name=f"run-{n}")
    ledgers_agree(lab1, lab2)
    for host in (lab1, lab2):
        same_content(host, list(sealed[host.name])[0], name="run-0")

with subtest("1 MB/s"):
    slow("8mbit", lab1)
    began = uptime(lab1)
    id = seal(lab1, 6_000, name="slow")
    wait_acknowledged(lab1)
    log.info(f"6.1 MB in {uptime(lab1) - began:.1f} s")
    same_content(lab1, id, name="slow")
    ledgers_agree(lab1, lab2)

with subtest("a partition for a minute"):
    slow("8mbit", lab2)
    seal(lab1, 8_000, name="cut")
    under_way()
    lab1.block()
    seal(lab1, 100)  # sealing needs no receiver
    seal(lab2, 100)
    wait_acknowledged(lab2)
    lab1.sleep(60)
    lab1.unblock()
    ledgers_agree(lab1, lab2)

with subtest("30 % loss"):
    lossy(lab1, 30)
    lossy(receiver, 30)
    seal(lab1, 40, name="lost")
    wait_acknowledged(lab1, timeout=180)
    lab1.succeed("nft delete table ip loss")
    receiver.succeed("nft delete table ip loss")
    ledgers_agree(lab1, lab2)

with subtest("a frozen host, and a frozen receiver"):
    for frozen in (lab1, receiver):
        id = seal(lab1, 8_000, name="frozen")
        under_way()
        frozen.send_monitor_command("stop")
        lab2.sleep(8)  # longer than the stall_timeout of the other side
        frozen.send_monitor_command("cont")
        wait_acknowledged(lab1)
    same_content(lab1, id, name="frozen")
    ledgers_agree(lab1, lab2)

with subtest("a power cut of the host, in mid-upload"):
    seal(lab1, 8_000, name="cut")
    under_way()
    lab1.crash()
    lab1.start()
    slow("8mbit", lab1)
    ledgers_agree(lab1, lab2)

with subtest("a power cut of the host, as soon as it has sealed"):
    lab1.block()
    for n in range(3):
        seal(lab1, 10, name=f"last-{n}")
    lab1.crash()
    lab1.unblock()
    lab1.start()
    ledgers_agree(lab1, lab2)

with subtest("a power cut of the receiver, in mid-upload"):
    slow("8mbit", lab1)
    id = seal(lab1, 8_000, name="cut")
    under_way()
    receiver.crash()
    receiver.start()
    ledgers_agree(lab1, lab2)
    same_content(lab1, id, name="cut")

with subtest("a power cut of the receiver, as soon as it has acknowledged"):
    fast(lab1, lab2)
    for n in range(3):
        seal(lab1, 10)
        lab1.succeed("cis490-shipper push --wait")
        receiver.crash()
        receiver.start()
        receiver.wait_for_unit(RECEIVER)
        t.assertEqual(sorted(stored(lab1)), sorted(sealed["lab1"].items()), "what was acknowledged is stored")
    ledgers_agree(lab1, lab2)

with subtest("a full store"):
    fill(receiver, "/var/lib/cis490-receiver", leave=3_000)
    seal(lab1, 8_000, name="full")
    lab1.wait_until_succeeds("cis490-shipper status --json | grep receiver-full", timeout=60)
    receiver.require_unit_state(RECEIVER)
    receiver.succeed("rm /var/lib/cis490-receiver/filler")
    ledgers_agree(lab1, lab2)

with subtest("a full host"):
    lab2.block()
    seal(lab2, 500)
    lab2.succeed("mkdir /srv/big; head -c 8000K /dev/urandom >/srv/big/data")
    fill(lab2, "/var/lib/cis490", leave=200)
    # Not as root, who may fill what is reserved.
    as_researcher = "setpriv --reuid=researcher --regid=users --groups=cis490"
    t.assertIn("no space left", lab2.fail(f"{as_researcher} cis490-episode seal /srv/big 2>&1"))
    lab2.unblock()
    wait_acknowledged(lab2)  # shipping goes on, and makes room
    lab2.succeed("rm /var/lib/cis490/filler")
    episode = json.loads(lab2.succeed(f"{as_researcher} cis490-episode seal --json /srv/big"))
    sealed["lab2"][episode["id"]] = episode["digest"]
    ledgers_agree(lab1, lab2)
