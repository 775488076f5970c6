INCOMING = "/var/lib/cis490-receiver/incoming"


def slow(rate, *hosts):
    for host in hosts:
        host.succeed(f"tc qdisc replace dev eth1 root tbf rate {rate} burst 64kb latency 400ms")


def fast(*hosts):
    for host in hosts:
        host.succeed("tc qdisc del dev eth1 root")


def under_way(kib=2000):
    receiver.wait_until_succeeds(f"test $(du -sk --exclude=.commit {INCOMING} | cut -f1) -gt {kib}", timeout=60)


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


compared = set()  # ids


def all_equal():
    """The ledgers agree, and each episode that was not compared yet is, unpacked by stock tools, file by file what lay at its source."""
    ledgers_agree(lab1, lab2)
    ids = [id for episodes in sealed.values() for id in episodes if id not in compared]
    receiver.succeed(
        "set -o pipefail; rm -rf /tmp/back; mkdir /tmp/back; "
        + "for id in %s; do zstd -q -dc /var/lib/cis490-receiver/episodes/*/*/*/*/$id.tar.zst | tar -x -C /tmp/back; done" % " ".join(ids)
    )
    back = {}
    for path, digest in digests(receiver, "/tmp/back").items():
        _, id, *below = path.split("/")
        if below[:2] == ["data", "output"]:
            back.setdefault(id, {})["/".join([".", *below[2:]])] = digest
    t.assertEqual(back, {id: sources[id] for id in ids})
    compared.update(ids)
    log.info(f"{len(ids)} episodes are what lay at their sources")


start_all()
trust(lab1, lab2)

with subtest("nothing in the way"):
    for host in (lab1, lab2):
        for n in range(3):
            seal(host, 300, name=f"run-{n}")
    all_equal()

with subtest("1 MB/s"):
    slow("8mbit", lab1)
    began = uptime(lab1)
    seal(lab1, 6_000, name="slow")
    wait_acknowledged(lab1)
    log.info(f"6.1 MB in {uptime(lab1) - began:.1f} s")
    all_equal()

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
    all_equal()

with subtest("30 % loss"):
    lossy(lab1, 30)
    lossy(receiver, 30)
    seal(lab1, 40, name="lost")
    wait_acknowledged(lab1, timeout=180)
    lab1.succeed("nft delete table ip loss")
    receiver.succeed("nft delete table ip loss")
    all_equal()

with subtest("a frozen host, and a frozen receiver"):
    for frozen in (lab1, receiver):
        seal(lab1, 8_000, name="frozen")
        under_way()
        frozen.send_monitor_command("stop")
        lab2.sleep(8)  # longer than the stall_timeout of the other side
        frozen.send_monitor_command("cont")
        wait_acknowledged(lab1)
    all_equal()

with subtest("a power cut of the host, in mid-upload"):
    seal(lab1, 8_000, name="cut")
    under_way()
    lab1.crash()
    lab1.start()
    slow("8mbit", lab1)
    lab1.succeed("cis490-episode recover")  # that the note of a sealing is gone need not outlive a power cut
    all_equal()

with subtest("a power cut of the host, as soon as it has sealed"):
    lab1.block()
    for n in range(3):
        seal(lab1, 10, name=f"last-{n}")
    lab1.crash()
    lab1.unblock()
    lab1.start()
    lab1.succeed("cis490-episode recover")
    all_equal()

with subtest("a power cut of the host, while it seals"):
    lab1.succeed(
        "mkdir /root/large; head -c 100M /dev/urandom >/root/large/data; sync",
        "systemd-run --quiet cis490-episode seal /root/large",
        "until ls /var/lib/cis490/open/*.sealing; do true; done 2>/dev/null; kill -STOP $(pidof cis490-episode); sync",
    )
    lab1.crash()
    lab1.start()
    lab1.wait_for_unit(SHIPPER)
    lab1.succeed("find /var/lib/cis490/open -name '*.sealing' -exec touch --date='2 days ago' {} +; systemctl restart cis490-shipper")
    lab1.wait_until_succeeds("cis490-shipper status | grep 'fix: cis490-episode recover'", timeout=30)
    t.assertIn("/root/large that was cut off is taken back", lab1.succeed("cis490-episode recover"))
    seal_dir(lab1, "/root/large")
    all_equal()

with subtest("a power cut of the receiver, in mid-upload"):
    slow("8mbit", lab1)
    seal(lab1, 8_000, name="cut")
    under_way()
    receiver.crash()
    receiver.start()
    all_equal()

with subtest("a power cut of the receiver, as soon as it has acknowledged"):
    fast(lab1, lab2)
    for n in range(3):
        seal(lab1, 10)
        lab1.succeed("cis490-shipper push --wait")
        receiver.crash()
        receiver.start()
        receiver.wait_for_unit(RECEIVER)
        t.assertEqual(sorted(stored(lab1)), sorted(sealed["lab1"].items()), "what was acknowledged is stored")
    all_equal()

with subtest("a full store"):
    fill(receiver, "/var/lib/cis490-receiver", leave=3_000)
    seal(lab1, 8_000, name="full")
    lab1.wait_until_succeeds("cis490-shipper status --json | grep receiver-full", timeout=60)
    receiver.require_unit_state(RECEIVER)
    receiver.succeed("rm /var/lib/cis490-receiver/filler")
    all_equal()

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
    seal_dir(lab2, "/srv/big", f"{as_researcher} cis490-episode seal --json")
    all_equal()

with subtest("all of them once more, after all that happened"):
    compared.clear()
    all_equal()
