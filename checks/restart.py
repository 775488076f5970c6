CONFIG = {SHIPPER: "/etc/cis490/lab-host.hcl.json", RECEIVER: "/etc/cis490/receiver.hcl.json"}


def crashes(host, unit, times):
    """So many in a row, each as soon as it is active again."""
    host.succeed(
        f"""
        pid() {{ systemctl show {unit} -p MainPID --value; }}
        for n in $(seq {times}); do
          was=$(pid)
          kill -KILL $was
          until [ $(pid) != 0 ] && [ $(pid) != $was ] && systemctl is-active --quiet {unit}; do sleep 0.02; done
        done
        """,
        timeout=120,
    )
    t.assertEqual(show(host, unit, "NRestarts"), str(times))


def bad_configuration(host, unit, command):
    """It ends with 78 and is not started again, until somebody mends the file and starts it."""
    host.succeed(f"cp --remove-destination $(readlink -f {CONFIG[unit]}) /tmp/good", f"rm {CONFIG[unit]}; echo '{{\"no_such_setting\": 1}}' >{CONFIG[unit]}")
    host.fail(f"systemctl restart {unit}")
    t.assertEqual(show(host, unit, "ActiveState"), "failed")
    t.assertEqual(show(host, unit, "ExecMainStatus"), "78")
    ended = show(host, unit, "ExecMainExitTimestampMonotonic")
    host.sleep(2)  # twenty times as long as the longest delay
    t.assertEqual(show(host, unit, "ExecMainExitTimestampMonotonic"), ended, "it was started again")
    host.fail(f"{command} check-config --config {CONFIG[unit]}")
    host.succeed(f"cp /tmp/good {CONFIG[unit]}", f"systemctl start {unit}")


def stops(host, unit, within):
    """A stop in the middle of an upload: in time, in order, and the upload goes on where it was."""
    lab1.succeed("tc qdisc replace dev eth1 root tbf rate 4mbit burst 32kb latency 400ms")
    before = received(receiver)
    seal(lab1, 8_000)
    receiver.wait_until_succeeds("test $(du -sk --exclude=.commit /var/lib/cis490-receiver/incoming | cut -f1) -gt 3000", timeout=30)
    began = uptime(host)
    host.succeed(f"systemctl stop {unit}")
    took = uptime(host) - began
    log.info(f"{unit}: stopped within {took:.1f} s of {within}")
    t.assertLess(took, within)
    t.assertEqual(show(host, unit, "Result"), "success")
    t.assertEqual(len(acknowledged(lab1)), len(sealed["lab1"]) - 1, "the upload was to be under way")
    host.succeed(f"systemctl start {unit}")
    wait_acknowledged(lab1)
    sent = (received(receiver) - before) / 1e6
    log.info(f"{sent:.1f} MB arrived for 8.2 MB")
    t.assertLess(sent, 10.5)
    lab1.succeed("tc qdisc del dev eth1 root")


start_all()
trust(lab1)
lab1.succeed(f"systemctl restart {SHIPPER}")

with subtest("fifty crashes in a row"):
    crashes(lab1, SHIPPER, 50)
    crashes(receiver, RECEIVER, 50)
    seal(lab1, 100)
    wait_acknowledged(lab1)

with subtest("a configuration that can't be used"):
    bad_configuration(lab1, SHIPPER, "cis490-shipper")
    bad_configuration(receiver, RECEIVER, "cis490-receiver")

with subtest("a stop in the middle of an upload"):
    stops(lab1, SHIPPER, within=10)
    stops(receiver, RECEIVER, within=10)

ledgers_agree(lab1)
