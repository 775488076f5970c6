import time

HOST_CONFIG = "/etc/cis490/lab-host.hcl.json"


def doctor(host, options="", user=""):
    """Its report. A container has its clock from the machine that it runs on."""
    command = f"cis490-doctor --json {options}"
    if user:
        command = f"runuser -u {user} -- {command}"
    status, out = host.execute(f"{command} 2>&1")
    report = json.loads(out)
    t.assertEqual(report["schema"], 1)
    t.assertEqual(status, 1 if report["verdict"] == "red" else 0, out)
    t.assertLess(report["took"], 10)
    report["results"] = [row for row in report["results"] if row["id"] != "clock-sync"]
    return report


def unwell(host):
    return {row["id"]: row for row in doctor(host)["results"] if row["status"] != "green"}


def text(rows):
    return "\n".join(f"{r['status']} {r['id']}: {r['title']} ({r.get('evidence', '')}) fix: {r.get('fix', '')}" for r in rows)


def well(host, timeout=90):
    """Waits until every row is green."""
    seen = {}

    def look(_):
        seen.clear()
        seen.update(unwell(host))
        return not seen

    try:
        retry(look, timeout_seconds=timeout)
    except Exception:
        raise AssertionError(f"{host.name} is not well:\n{text(seen.values())}") from None


def ill(host, row, status, says, also=(), timeout=30):
    """Waits until the row says so and nothing else is wrong but what follows; its fix, and how long that took."""
    began, seen = time.monotonic(), {}

    def look(_):
        seen.clear()
        seen.update(unwell(host))
        others = [r for r in seen.values() if r["id"] != row and r["status"] != "skipped" and r["id"] not in also]
        return row in seen and seen[row]["status"] == status and not others

    try:
        retry(look, timeout_seconds=timeout)
    except Exception:
        raise AssertionError(f"{host.name}: no {status} {row} alone:\n{text(seen.values())}") from None
    found = seen[row]
    t.assertRegex(found["title"] + " " + found.get("evidence", ""), says)
    log.info(f"FAULT {host.name} | {row} | {status} | {time.monotonic() - began:.1f} s | {found['title']} | {found['fix']}")
    return found["fix"]


def paste(host, fix, after=""):
    """Runs the command of a fix."""
    t.assertIn(after, fix)
    command = fix.split(after, 1)[1] if after else fix
    host.succeed(command.split("; on NixOS")[0])


start_all()
trust(lab1)
for host in (receiver, lab1):
    host.succeed("mkdir -p /var/log/journal && systemd-tmpfiles --create --prefix /var/log/journal && journalctl --flush")

with subtest("a system that is well"):
    seal(lab1, 100)
    wait_acknowledged(lab1)
    well(lab1)
    well(receiver)
    t.assertIn("nothing was refused", text(doctor(lab1, "--only shipping")["results"]))

with subtest("the unit of either daemon"):
    for host, unit, row in ((lab1, SHIPPER, "unit"), (receiver, RECEIVER, "receiver-unit")):
        name = unit.removesuffix(".service")
        host.succeed(f"systemctl stop {unit}")
        paste(host, ill(host, row, "red", f"{name} does not run"))
        well(host)

with subtest("a configuration that it refused"):
    lab1.succeed(f"cp --remove-destination $(readlink -f {HOST_CONFIG}) /tmp/good; rm {HOST_CONFIG}; sed '1s/{{/{{\\n \"hots\": 1,/' /tmp/good >{HOST_CONFIG}")
    lab1.fail(f"systemctl restart {SHIPPER}")
    fix = ill(lab1, "configuration", "red", r"line 2: Unknown attribute hots.*Did you mean host|line 2.*hots")
    t.assertIn(f"mend line 2 of {HOST_CONFIG}", fix)
    lab1.succeed(f"sed -i 2d {HOST_CONFIG}")
    paste(lab1, ill(lab1, "unit", "red", "refused its configuration and is not tried again"), "; then: ")
    well(lab1)

with subtest("stopped by a signal, and killed by the watchdog for it"):
    pid = show(lab1, SHIPPER, "MainPID")
    lab1.succeed(f"kill -STOP {pid}")
    paste(lab1, ill(lab1, "shipper", "red", "stopped by a signal", timeout=8))
    well(lab1)
    lab1.succeed(f"kill -STOP {pid}")
    lab1.wait_until_succeeds(f"[ $(systemctl show -p NRestarts --value {SHIPPER}) != 0 ]", timeout=40)
    fix = ill(lab1, "restarts", "yellow", "restarted in the last 10 min: watchdog")
    t.assertIn("all goroutines", fix)
    retry(lambda _: unwell(lab1).keys() == {"restarts"}, timeout_seconds=30)
    lab1.succeed(f"systemctl restart {SHIPPER}")
    well(lab1)

with subtest("started too often"):
    drop = f"/run/systemd/system/{SHIPPER}.d"
    lab1.succeed(f"mkdir -p {drop}; printf '[Unit]\\nStartLimitIntervalSec=600\\nStartLimitBurst=3\\n' >{drop}/limit.conf; systemctl daemon-reload")
    lab1.execute(f"systemctl restart {SHIPPER}; for n in 1 2 3 4 5; do systemctl kill -s KILL {SHIPPER}; sleep 0.2; systemctl start {SHIPPER}; done")
    paste(lab1, ill(lab1, "unit", "red", "has failed|has given up", also={"restarts"}), "; then: ")
    lab1.succeed(f"rm -r {drop}; systemctl daemon-reload; systemctl restart {SHIPPER}")
    well(lab1)

with subtest("the way to the receiver, and what it knows"):
    receiver.succeed(f"systemctl stop {RECEIVER}")
    fix = ill(lab1, "receiver", "red", "can't be reached")
    paste(receiver, fix.split("; else")[0], "on the receiver: ")
    well(lab1)
    receiver.succeed("cis490-receiver hosts revoke lab1")
    paste(receiver, ill(lab1, "registration", "red", "revoked"), "on the receiver: ")
    well(lab1)
    lab1.succeed("cp /etc/hosts /root/hosts; sed '/receiver/d' /root/hosts >/etc/hosts")
    t.assertIn("getent hosts receiver", ill(lab1, "dns", "red", "does not resolve"))
    lab1.succeed("cat /root/hosts >/etc/hosts")
    well(lab1)
    lab1.succeed("chown root:root /var/lib/cis490/sealed")
    paste(lab1, ill(lab1, "data-dir", "red", "wrong owner"))
    well(lab1)

with subtest("refused episodes, by the journal's fields: 412 first, then 400"):
    old = [json.loads(lab1.succeed(f"cis490-episode seal --json --started 2019-01-01T00:00:00Z --ended 2019-01-02T00:00:00Z /root/run"))["id"] for _ in range(12)]
    lab1.succeed("mkdir -p /root/many; touch /root/many/{1..30}")
    many = json.loads(lab1.succeed("cis490-episode seal --json /root/many"))["id"]
    retry(lambda _: status(lab1)["quarantine"]["total"] == 13, timeout_seconds=30)

    def shipping():
        return [row for row in doctor(lab1, "--only shipping")["results"] if row["status"] != "green"]

    retry(lambda _: len(shipping()) == 2, timeout_seconds=30)
    first, second = shipping()
    t.assertEqual((first["id"], first["status"], first["title"]), ("shipping/out-of-window", "red", "12 ship(s) rejected as out-of-window in the last 10 min"))
    t.assertIn("services.cis490.receiver.settings.window", first["fix"])
    t.assertIn("timedatectl set-ntp true", first["fix"])
    t.assertEqual((second["id"], second["status"]), ("shipping/too-large", "red"))
    t.assertIn("12 ship(s) rejected as out-of-window in the last 10 min", lab1.execute("cis490-doctor")[1])
    rows = unwell(lab1)
    t.assertEqual({id for id, row in rows.items() if row["status"] == "yellow"}, {"quarantine/out-of-window", "quarantine/too-large"})
    receiver.succeed(
        "cp --remove-destination $(readlink -f /etc/cis490/receiver.hcl.json) /tmp/r; rm /etc/cis490/receiver.hcl.json",
        "sed 's/2020-01-01T00:00:00Z/2010-01-01T00:00:00Z/; s/\"episode_files\": *20/\"episode_files\": 2000/' /tmp/r >/etc/cis490/receiver.hcl.json",
        f"systemctl reload {RECEIVER}",
    )
    paste(lab1, rows["quarantine/too-large"]["fix"], "then: ")
    well(lab1)

with subtest("entries of a version before there were fields"):
    lab1.succeed(
        f"systemctl stop {SHIPPER}",
        f"mkdir -p /run/systemd/system/{SHIPPER}.d",
        f"printf '[Service]\\nExecStartPre=/bin/sh -c \"echo upload of 01a2271c-5b22-7ded-a293-6e0c56c371fb failed: HTTP 403 Forbidden\"\\n' >/run/systemd/system/{SHIPPER}.d/old.conf",
        "systemctl daemon-reload",
        f"systemctl start {SHIPPER}",
        f"rm -r /run/systemd/system/{SHIPPER}.d; systemctl daemon-reload",
    )
    retry(lambda _: "by pattern" in text(doctor(lab1, "--only shipping")["results"]) or "refused, but not by the receiver" in text(doctor(lab1, "--only shipping")["results"]), timeout_seconds=20)

with subtest("who may not read the journal, and a journal that does not outlive a boot"):
    def seen():
        return {row["id"]: row for row in doctor(lab1, user="nobody")["results"]}

    # The rest is the shipper's word, which has just been started and has to hear from the receiver first.
    well_known = ("unit", "shipper", "receiver", "certificate", "clock", "registration", "backlog", "quarantine")
    retry(lambda _: all(seen()[id]["status"] == "green" for id in well_known), timeout_seconds=20)
    rows = seen()
    t.assertEqual(rows["journal"]["status"], "unknown")
    t.assertIn("usermod -aG systemd-journal nobody", rows["journal"]["fix"])
    t.assertFalse([row for row in rows.values() if row["status"] == "red"])
    receiver.succeed("journalctl --relinquish-var; rm -rf /var/log/journal; systemctl restart systemd-journald")
    receiver.succeed(f"systemctl restart {RECEIVER}")
    fix = ill(receiver, "receiver-journal", "yellow", "does not outlive a boot")
    paste(receiver, fix)
    well(receiver)

with subtest("partition: nothing but the cause"):
    lab1.succeed("ip link set eth1 down")
    ill(lab1, "receiver", "red", "can't be reached")
    lab1.succeed("ip link set eth1 up")
    retry(lambda _: not [r for r in unwell(lab1).values() if r["id"] != "restarts" and not r["id"].startswith("shipping")], timeout_seconds=60)
