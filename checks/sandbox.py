RIGHTS = {"CapEff": "0" * 16, "CapPrm": "0" * 16, "CapBnd": "0" * 16, "CapAmb": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}


def taken_over(host, unit):
    """What the probe could do in the place of the daemon: all else of the unit stays."""
    drop = f"/run/systemd/system/{unit}.d"
    host.succeed(
        f"systemctl stop {unit}; mkdir -p {drop}",
        "mkdir -p /root/secret /home/researcher; echo secret >/root/secret/key; echo mine >/home/researcher/notes",
        f"printf '[Service]\\nType=oneshot\\nRestart=no\\nWatchdogSec=0\\nExecReload=\\nExecStartPre=\\nExecStart=\\n"
        f"ExecStart=/usr/bin/env PATH=/run/current-system/sw/bin:/usr/bin:/usr/sbin:/bin python3 /etc/probe.py\\n' >{drop}/probe.conf",
        f"systemctl daemon-reload; systemctl start {unit}",
    )
    invocation = show(host, unit, "InvocationID")
    # What it wrote last may reach the journal after its end was told; and su, which it tried, writes there too.
    out = host.succeed(f"journalctl --sync; journalctl _SYSTEMD_INVOCATION_ID={invocation} -o cat --no-pager | grep '^{{'")
    host.succeed(f"rm -r {drop}; systemctl daemon-reload; systemctl start {unit}")
    host.require_unit_state("neighbour.service")
    return json.loads(out)


def outside(paths, *allowed):
    return [path for path in paths if not any(path == a or path.startswith(a + "/") for a in allowed)]


def is_confined(host, unit, data, run, readable=()):
    could = taken_over(host, unit)
    log.info(json.dumps({kind: found for kind, found in could.items() if kind not in ("read", "write")}))
    log.info(f"writes: {could['write']}")
    log.info(f"reads: {could['read']}")
    t.assertEqual(outside(could["write"], data, run, "/tmp", "/var/tmp"), [], "what it could write")
    t.assertEqual(outside(could["read"], data, run, *readable), [], "what it could read that not everybody may")
    t.assertEqual(could["see"], [], "what it could see")
    t.assertEqual(could["call"], [], "what it could call")
    t.assertEqual(could["reach"], ["AF_INET", "AF_INET6", "AF_UNIX"], "what it could reach")
    t.assertEqual(could["start"], [], "what it could start")
    t.assertEqual(could["rights"], RIGHTS)


def tree(host, dir):
    """Who may what in the data directory: (mode, user, group) by path."""
    lines = host.succeed(f"find {dir} -maxdepth 1 -type d -printf '%p %m %u %g\\n'").splitlines()
    return {path: tuple(rest) for path, *rest in map(str.split, lines)}


start_all()
trust(lab1)
seal(lab1, 100)
ledgers_agree(lab1)

with subtest("the shipper"):
    is_confined(lab1, SHIPPER, "/var/lib/cis490", "/run/cis490/cis490-shipper")
with subtest("the receiver"):
    is_confined(receiver, RECEIVER, "/var/lib/cis490-receiver", "/run/cis490-receiver")

with subtest("who may what in the data"):
    shipper = "cis490-shipper"
    of_the_host = tree(lab1, "/var/lib/cis490")
    t.assertEqual(of_the_host["/var/lib/cis490"], ("750", shipper, "cis490"))
    t.assertEqual(of_the_host["/var/lib/cis490/identity"], ("700", shipper, "cis490"))
    for name in ("open", "sealed", ".removing"):
        t.assertEqual(of_the_host[f"/var/lib/cis490/{name}"], ("2770", shipper, "cis490"))
    for name in ("shipped", "quarantine", "receipts", "uploads"):
        t.assertEqual(of_the_host[f"/var/lib/cis490/{name}"], ("750", shipper, "cis490"))
    t.assertEqual(set(tree(receiver, "/var/lib/cis490-receiver").values()), {("750", "cis490-receiver", "cis490-receiver")})
    for host, group, dir in ((lab1, "cis490", "/var/lib/cis490"), (receiver, "cis490-receiver", "/var/lib/cis490-receiver")):
        host.fail(f"setpriv --reuid=researcher --regid=users --clear-groups ls {dir}")
        host.succeed(f"setpriv --reuid=researcher --regid=users --groups={group} ls {dir}")
    lab1.fail("setpriv --reuid=researcher --regid=users --groups=cis490 cat /var/lib/cis490/identity/*")
    receiver.fail("setpriv --reuid=researcher --regid=users --groups=cis490-receiver cat /var/lib/cis490-receiver/ca/ca.key")

# And both still work.
seal(lab1, 100)
ledgers_agree(lab1)
