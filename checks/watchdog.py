LIMIT = 10  # WatchdogSec, in seconds
DEADLINE = {SHIPPER: 35, RECEIVER: 120}  # of a worker, in seconds


def on_own_disk(host, unit, dir):
    """Moves the daemon's data to /dev/vdb, before it has any."""
    host.wait_for_unit(unit)
    host.succeed(
        f"systemctl stop {unit}; mkfs.ext4 -q /dev/vdb; cp -a {dir} /tmp/data; mount /dev/vdb {dir}",
        f"cp -a /tmp/data/. {dir}/; rm -rf {dir}/lost+found; systemctl start {unit}",
    )


def watchdog_fires(host, unit, timeout):
    """Waits for the kill, which comes within a second of ten after the last ping; gives its time, in seconds of the monotonic clock."""
    invocation = show(host, unit, "InvocationID")
    ping, killed = 0, 0

    def fired(_last):
        nonlocal ping, killed
        ping = int(show(host, unit, "WatchdogTimestampMonotonic")) or ping  # 0 once it fired
        for line in journal(host, unit):
            if line.get("INVOCATION_ID") == invocation and "Watchdog timeout" in line["MESSAGE"]:
                t.assertIn(f"Watchdog timeout (limit {LIMIT}s)!", line["MESSAGE"])
                killed = int(line["__MONOTONIC_TIMESTAMP"])
        return killed > 0

    retry(fired, timeout_seconds=timeout)
    after = (killed - ping) / 1e6
    log.info(f"{host.name}: killed {after:.2f} s after the last ping")
    t.assertGreaterEqual(after, LIMIT)
    t.assertLess(after, LIMIT + 1)
    return killed / 1e6


def dies_when_stopped(host, unit):
    """SIGSTOP: it is killed with SIGABRT, says what all its goroutines did, and is started again."""
    restarts = int(show(host, unit, "NRestarts"))
    host.succeed(f"systemctl kill --kill-whom=main --signal=STOP {unit}")
    watchdog_fires(host, unit, 20)
    host.wait_until_succeeds(f"systemctl show {unit} -p NRestarts --value | grep -x {restarts + 1} && systemctl is-active {unit}", timeout=20)
    host.succeed(f"journalctl -u {unit} -o cat | grep -F 'with signal SIGABRT'", f"journalctl -u {unit} -o cat | grep '^goroutine '")


def life(host, unit):
    """Which life of the service it is, and how many it had: the same later means that nobody killed it."""
    return show(host, unit, "InvocationID"), show(host, unit, "NRestarts")


def slow(host, rate, burst="32kb"):
    """burst is also what may wait in front of the cable: of a slow one, seconds."""
    host.succeed(f"tc qdisc replace dev eth1 root tbf rate {rate} burst {burst} latency 400ms")


def cut_upload(host, unit, at):
    """The daemon is stopped in the middle of an upload of 20 MB: what was there before counts, and it is stored once."""
    slow(host, "16mbit")
    before = received(receiver)
    seal(host, 20_000)
    receiver.wait_until_succeeds("test $(du -sk --exclude=.commit /var/lib/cis490-receiver/incoming | cut -f1) -gt 12000", timeout=30)
    dies_when_stopped(at, unit)
    wait_acknowledged(host)
    sent = (received(receiver) - before) / 1e6
    log.info(f"{sent:.1f} MB arrived for 20.5 MB")
    # Sent anew it would be 32 at least. What the kernel had for the receiver is lost with it.
    t.assertLess(sent, 31, "MB for an episode of 20.5 MB: it was not resumed")
    host.succeed("tc qdisc del dev eth1 root")


start_all()
on_own_disk(receiver, RECEIVER, "/var/lib/cis490-receiver")
on_own_disk(lab1, SHIPPER, "/var/lib/cis490")
trust(lab1, lab2)

with subtest("active means: the queue is constructed"):
    lab1.succeed(f"systemctl stop {SHIPPER}; fsfreeze -f /var/lib/cis490; systemctl start --no-block {SHIPPER}")
    lab1.sleep(3)
    t.assertEqual(show(lab1, SHIPPER, "ActiveState"), "activating", "with its disk frozen the queue can't be constructed")
    lab1.succeed("fsfreeze -u /var/lib/cis490")
    lab1.wait_for_unit(SHIPPER)

# Goes on beside what follows.
slow(lab2, "400kbit")
seal(lab2, 3200)
lives = {host.name: life(host, SHIPPER) for host in (lab1, lab2)}
receivers_life = life(receiver, RECEIVER)
began = uptime(lab2)

with subtest("a black hole and 100,000 waiting episodes"):
    lab1.succeed("nft add table ip hole; nft 'add chain ip hole out { type filter hook output priority 0; }'; nft add rule ip hole out oifname eth1 drop")
    seal(lab1, 10)
    lab1.wait_until_succeeds("cis490-shipper status --json | grep -E '\"held\": ?true'", timeout=30)
    names = "cd /var/lib/cis490/sealed && seq -f ffffffff-ffff-7fff-8fff-%012.0f 100000 | xargs"
    lab1.succeed(f"{names} mkdir")
    lab1.wait_until_succeeds("cis490-shipper status --json | grep -E '\"waiting\": ?10000[01]'", timeout=30)
    lab1.sleep(LIMIT + 3)
    t.assertEqual(life(lab1, SHIPPER), lives["lab1"], "nobody is killed because the receiver is gone")
    lab1.succeed(f"{names} rmdir", "nft delete table ip hole")
    wait_acknowledged(lab1)

with subtest("the shipper is stopped in mid-upload"):
    cut_upload(lab1, SHIPPER, at=lab1)

with subtest("an upload of more than a minute"):
    wait_acknowledged(lab2)
    took = uptime(lab2) - began
    log.info(f"it took {took:.0f} s")
    t.assertGreater(took, 60)
    t.assertEqual(life(lab2, SHIPPER), lives["lab2"], "nobody is killed because an upload is slow")
    t.assertEqual(life(receiver, RECEIVER), receivers_life, "on either side")

with subtest("the receiver is stopped in mid-upload"):
    cut_upload(lab1, RECEIVER, at=receiver)


MORE, PARTIAL = 20_000, 8_000  # of 10,000 uploads that a receiver has at most
STORE = "/var/lib/cis490-receiver"


def files_in(dir, pattern):
    return int(receiver.succeed(f"find {STORE}/{dir} -name '{pattern}' | wc -l"))


def all_listed():
    """How many the receiver's catalogue has of lab9."""
    return int(receiver.succeed("cis490-receiver episodes list --host lab9 --json 2>/dev/null | wc -l"))


with subtest(f"the receiver, with {MORE} more stored, {PARTIAL} partial uploads, a lost catalogue, and a trickle"):
    slow(lab1, "16mbit")
    seal(lab1, 20_000, name="cut")  # more than comes in the five seconds that a stop leaves it
    receiver.wait_until_succeeds(f"test $(du -sk --exclude=.commit {STORE}/incoming | cut -f1) -gt 2000", timeout=30)
    receiver.succeed(f"systemctl stop {RECEIVER}", f"python3 /etc/backlog.py {MORE} {PARTIAL}", f"rm {STORE}/catalogue.sqlite*")
    own = files_in("incoming", "*.zst") - PARTIAL
    began = uptime(receiver)
    receiver.succeed(f"systemctl start {RECEIVER}")  # returns with READY=1
    log.info(f"ready {uptime(receiver) - began:.1f} s after the start")
    t.assertLess(uptime(receiver) - began, 3 * LIMIT, "seconds until it is ready")
    receivers_life = life(receiver, RECEIVER)
    # Beside the rebuilding of the catalogue, and the removal of half of the partial uploads.
    slow(lab2, "200kbit", burst="8kb")
    id = seal(lab2, 2_000, name="trickle")
    receiver.wait_until_succeeds(f"grep -l {id} {STORE}/incoming/*.json >&2", timeout=60)
    before = received(receiver)
    lab2.sleep(2 * LIMIT + 5)
    wait_acknowledged(lab1)
    log.info(f"{(received(receiver) - before) / 1e3:.0f} kB arrived, of both hosts")
    t.assertNotIn((id, sealed["lab2"][id]), stored(lab2), "it trickles")
    t.assertEqual([line["MESSAGE"] for line in journal(lab2, SHIPPER) if "stalled" in line["MESSAGE"]], [], "and moves")
    retry(lambda _: all_listed() == MORE, timeout_seconds=60)
    retry(lambda _: files_in("incoming", "*.zst") <= PARTIAL // 2 + own, timeout_seconds=60)
    t.assertEqual(life(receiver, RECEIVER), receivers_life, "nobody is killed because there is much, or because it comes slowly")
    log.info(f"all of it listed and swept {uptime(receiver) - began:.1f} s after the start")
    lab2.succeed("tc qdisc del dev eth1 root")
    lab1.succeed("tc qdisc del dev eth1 root")
    wait_acknowledged(lab2)
    t.assertEqual(life(lab2, SHIPPER), lives["lab2"], "nor the one that it comes from")
    away = f"rm -r {STORE}/episodes/lab9 {STORE}/catalogue.sqlite*; grep -l lab9 -r {STORE}/incoming | xargs rm"
    receiver.succeed(f"systemctl stop {RECEIVER}; {away}; systemctl start {RECEIVER}")
    receiver.wait_until_succeeds("cis490-receiver episodes list --host lab1 --json | grep -q .", timeout=30)


def hangs(host, unit, since):
    """One worker hangs: it is named, and the process killed, within its deadline and ten seconds."""
    killed = watchdog_fires(host, unit, DEADLINE[unit] + LIMIT + 10)
    late = [line for line in journal(host, unit) if "a worker makes no progress" in line["MESSAGE"]][-1]
    log.info(f"{host.name}: killed {killed - since:.1f} s after its disk froze; {late['MESSAGE']}")
    t.assertLess(killed - since, DEADLINE[unit] + LIMIT + 1)


with subtest("a dead disk"):
    slow(lab1, "16mbit")
    seal(lab1, 8_000, name="first")
    lab1.wait_until_succeeds("cis490-shipper status --json | grep -E '\"in_flight\": ?1'", timeout=10)
    lab1.succeed("fsfreeze -f /var/lib/cis490")
    receiver.wait_until_succeeds(f"cis490-receiver episodes list --host lab1 | grep -F {list(sealed['lab1'])[-1]}", timeout=30)
    lab1_froze = uptime(lab1)
    # From here on lab1 needs no receiver.
    slow(lab2, "16mbit")
    seal(lab2, 20_000, name="second")
    receiver.wait_until_succeeds("test $(du -sk --exclude=.commit /var/lib/cis490-receiver/incoming | cut -f1) -gt 5000", timeout=30)
    receiver.succeed("fsfreeze -f /var/lib/cis490-receiver")
    receiver_froze = uptime(receiver)
    hangs(lab1, SHIPPER, lab1_froze)
    lab1.succeed("fsfreeze -u /var/lib/cis490")
    hangs(receiver, RECEIVER, receiver_froze)
    receiver.succeed("fsfreeze -u /var/lib/cis490-receiver")

ledgers_agree(lab1, lab2)
