import datetime

FILE = "/etc/cis490/lab-host.hcl.json"
QUARANTINE = "/var/lib/cis490/quarantine"


def refused(name):
    """An episode that the receiver's window refuses; its id."""
    lab1.succeed(f"mkdir -p /root/{name}; echo {name} >/root/{name}/data")
    out = lab1.succeed(f"cis490-episode seal --json --started 2019-01-01T00:00:00Z --ended 2019-01-02T00:00:00Z /root/{name}")
    id = json.loads(out)["id"]
    lab1.wait_for_file(f"{QUARANTINE}/*/{id}/reason.json", timeout=30)
    return id


def aged(id, days):
    """As if it lay there for so many days, and an hour, already. The shipper has to be stopped."""
    at = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=days, hours=1)
    path = lab1.succeed(f"ls -d {QUARANTINE}/*/{id}").strip()
    reason = json.loads(lab1.succeed(f"cat {path}/reason.json"))
    reason["quarantined_at"] = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    day = f"{QUARANTINE}/{at:%Y-%m-%d}"
    lab1.succeed(
        f"cat >{path}/reason.json <<'END'\n{json.dumps(reason)}\nEND\n",
        f"mkdir -p {day}; chown --reference={QUARANTINE} {day}; mv {path} {day}/",
    )


def kept():
    return {path.rsplit("/", 1)[1] for path in lab1.succeed(f"ls -d {QUARANTINE}/*/*").split()}


def removals():
    """What the journal says was removed, and when, in seconds."""
    lines = [line for line in journal(lab1, SHIPPER) if line["MESSAGE"].startswith("removed from quarantine: kept long enough")]
    return [(int(line["__MONOTONIC_TIMESTAMP"]) / 1e6, line["MESSAGE"]) for line in lines]


def reload(days):
    settings["shipper"]["quarantine_keep_days"] = days
    lab1.succeed(f"rm {FILE}; cat >{FILE} <<'END'\n{json.dumps(settings)}\nEND\n", f"systemctl reload {SHIPPER}")


def cleaned():
    """When the last clean-up that was due ran."""
    return json.loads(lab1.succeed(f"cat {QUARANTINE}/.cleanup.json"))["last_run"]


start_all()
trust(lab1)
settings = json.loads(lab1.succeed(f"cat {FILE}"))

month, days, today = refused("month"), refused("days"), refused("today")
lab1.succeed(f"systemctl stop {SHIPPER}")
aged(month, 31)
aged(days, 29)
lab1.succeed(f"systemctl start {SHIPPER}")

with subtest("0 days: nothing is ever removed"):
    lab1.wait_until_succeeds("cis490-shipper status --json | grep -E '\"cleanup\": ?\"off\"'", timeout=30)
    first = cleaned()
    retry(lambda _: cleaned() != first, timeout_seconds=30)  # and once more, an interval later
    t.assertEqual(kept(), {month, days, today})

with subtest("30 days, set in the middle of an upload"):
    lab1.succeed("tc qdisc replace dev eth1 root tbf rate 8mbit burst 32kb latency 400ms")
    before, pid = received(receiver), show(lab1, SHIPPER, "MainPID")
    seal(lab1, 8_000)
    receiver.wait_until_succeeds("test $(du -sk --exclude=.commit /var/lib/cis490-receiver/incoming | cut -f1) -gt 4000", timeout=30)
    reload(30)
    retry(lambda _: kept() != {month, days, today}, timeout_seconds=30)
    t.assertEqual(kept(), {days, today}, "exactly what is older than 30 days is removed")
    wait_acknowledged(lab1)
    sent = (received(receiver) - before) / 1e6
    log.info(f"{sent:.1f} MB arrived for 8.2 MB")
    t.assertLess(sent, 10.5, "MB: the upload was lost with the reload")
    t.assertEqual(show(lab1, SHIPPER, "MainPID"), pid)
    (at, message), *others = removals()
    t.assertEqual(others, [])
    for part in (month, "out-of-window", "age=745h"):
        t.assertIn(part, message)

with subtest("once in an interval, also over a restart"):
    lab1.succeed(f"systemctl stop {SHIPPER}")
    aged(days, 40)
    lab1.succeed(f"systemctl start {SHIPPER}")
    retry(lambda _: len(removals()) == 2, timeout_seconds=40)
    second = removals()[1][0]
    lab1.succeed(f"systemctl stop {SHIPPER}")
    aged(today, 50)
    lab1.succeed(f"systemctl start {SHIPPER}")
    retry(lambda _: len(removals()) == 3, timeout_seconds=40)
    log.info(f"removed {second - at:.1f} s and {removals()[2][0] - second:.1f} s after the one before")
    t.assertGreaterEqual(second - at, 8)
    t.assertGreaterEqual(removals()[2][0] - second, 8)
    lab1.fail(f"ls -d {QUARANTINE}/*/*")

ledgers_agree(lab1)
