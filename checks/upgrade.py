def upgrade(host, unit, start):
    """As after a switch: the unit names another program, and is restarted."""
    was = host.succeed(f"systemctl show {unit} -p ExecStart --value")
    assert "/etc/next" not in was
    drop = f"/run/systemd/system/{unit}.d"
    host.succeed(f"mkdir -p {drop}", f"printf '[Service]\\nExecStart=\\nExecStart={start}\\n' >{drop}/next.conf")
    host.succeed(f"systemctl daemon-reload; systemctl restart {unit}")
    t.assertIn("/etc/next", host.succeed(f"systemctl show {unit} -p ExecStart --value"))


def under_way(kib):
    """An upload that takes a while, and has come some way; how much had arrived before."""
    before = received(receiver)
    seal(lab1, kib)
    receiver.wait_until_succeeds(f"test $(du -sk --exclude=.commit /var/lib/cis490-receiver/incoming | cut -f1) -gt {kib * 6 // 10}", timeout=30)
    return before


def sent_once(before, most):
    """All is acknowledged, and no upload began anew: so many MB arrived at most."""
    wait_acknowledged(lab1)
    sent = (received(receiver) - before) / 1e6
    log.info(f"{sent:.1f} MB arrived")
    t.assertLess(sent, most)


def change(host, file, text):
    """Puts another configuration file in the place of the one in the store."""
    host.succeed(f"rm {file}; cat >{file} <<'END'\n{text}\nEND\n")


def said(host, unit, text):
    host.wait_until_succeeds(f"journalctl -u {unit} -o cat | grep -F '{text}'", timeout=20)


start_all()
trust(lab1)
lab1.succeed("tc qdisc replace dev eth1 root tbf rate 16mbit burst 32kb latency 400ms")

with subtest("the shipper's next version, with a backlog"):
    lab1.block()
    for n in range(20):
        seal(lab1, 50, name=f"small-{n}")
    seal(lab1, 10_000)
    lab1.unblock()
    before = received(receiver)
    receiver.wait_until_succeeds("test $(du -sk --exclude=.commit /var/lib/cis490-receiver/incoming | cut -f1) -gt 6000", timeout=40)
    upgrade(lab1, SHIPPER, "/etc/next/cis490-shipper run --config /etc/cis490/lab-host.hcl.json")
    t.assertEqual(status(lab1)["version"], "next")
    sent_once(before, 14)

with subtest("the receiver's next version"):
    before = under_way(10_000)
    upgrade(receiver, RECEIVER, "/etc/next/cis490-receiver serve --config /etc/cis490/receiver.hcl.json")
    sent_once(before, 14)
    id = seal(lab1, 100)
    wait_acknowledged(lab1)
    receipt = json.loads(receiver.succeed(f"cis490-receiver episodes show {id} --json"))["receipt"]
    t.assertEqual(receipt["receiver_version"], "next")

with subtest("other settings of the shipper, in the middle of an upload"):
    file = "/etc/cis490/lab-host.hcl.json"
    settings = json.loads(lab1.succeed(f"cat {file}"))
    before, pid = under_way(10_000), show(lab1, SHIPPER, "MainPID")
    settings["shipper"]["upload_workers"] = 3
    change(lab1, file, json.dumps(settings))
    lab1.succeed(f"systemctl reload {SHIPPER}")
    said(lab1, SHIPPER, "configuration reloaded")
    sent_once(before, 14)
    before = under_way(10_000)
    good, settings["shipper"]["upload_workers"] = json.dumps(settings), 0
    change(lab1, file, json.dumps(settings))
    lab1.succeed(f"systemctl reload {SHIPPER}")
    said(lab1, SHIPPER, "reload refused, the old configuration stays")
    sent_once(before, 14)
    change(lab1, file, good)
    t.assertEqual(show(lab1, SHIPPER, "MainPID"), pid, "a reload is no restart")
    t.assertEqual(show(lab1, SHIPPER, "NRestarts"), "0")
    workers = [w["name"] for w in status(lab1)["workers"] if w["name"].startswith("upload")]
    t.assertEqual(len(workers), 3, f"upload workers: {workers}")

with subtest("other settings of the receiver, in the middle of an upload"):
    file = "/etc/cis490/receiver.hcl.json"
    settings = json.loads(receiver.succeed(f"cat {file}"))
    before, pid = under_way(10_000), show(receiver, RECEIVER, "MainPID")
    settings.setdefault("window", {})["not_before"] = "2020-01-01T00:00:00Z"
    change(receiver, file, json.dumps(settings))
    receiver.succeed(f"systemctl reload {RECEIVER}")
    said(receiver, RECEIVER, "configuration reloaded")
    sent_once(before, 14)
    lab1.succeed("mkdir /root/old; echo old >/root/old/data")
    old = json.loads(lab1.succeed("cis490-episode seal --json --started 2019-01-01T00:00:00Z --ended 2019-01-02T00:00:00Z /root/old"))["id"]
    lab1.wait_until_succeeds(f"cis490-shipper quarantine list | grep {old} | grep out-of-window", timeout=30)
    before = under_way(10_000)
    good, settings["window"]["not_before"] = json.dumps(settings), "yesterday"
    change(receiver, file, json.dumps(settings))
    receiver.succeed(f"systemctl reload {RECEIVER}")
    said(receiver, RECEIVER, "reload refused, the old configuration stays")
    sent_once(before, 14)
    t.assertEqual(show(receiver, RECEIVER, "MainPID"), pid)
    change(receiver, file, good)
    lab1.succeed(f"cis490-shipper quarantine rm {old}")

ledgers_agree(lab1)
