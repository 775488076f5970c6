def seen(call):
    """Whether the driver says that something is not so."""
    try:
        call()
    except Exception as e:
        log.info(f"as it should be: {e}")
        return True
    return False


one.start(allow_reboot=True)
two.start()

with subtest("commands"):
    t.assertEqual(one.execute("echo out; echo err >&2; exit 3"), (3, "out\n"))
    t.assertEqual(one.execute("false | true")[0], 1, "pipefail")
    t.assertNotEqual(one.execute("echo $unset_variable")[0], 0, "nounset")
    t.assertEqual(one.execute("sleep 9", timeout=1)[0], 124)
    t.assertEqual(one.succeed("echo a", "echo b"), "a\nb\n")
    assert seen(lambda: one.succeed("false")) and seen(lambda: one.fail("true"))
    one.execute("sleep 2; touch /tmp/later", check_output=False)
    one.wait_for_file("/tmp/later", timeout=20)
    t.assertEqual(one.wait_until_fails("test -e /nowhere", timeout=5), "")
    assert seen(lambda: one.wait_until_succeeds("false", timeout=2))
    t.assertEqual(one.succeed("id -un; hostname").split(), ["root", "one"])

with subtest("units"):
    one.wait_for_unit("multi-user.target")
    assert seen(lambda: one.wait_for_unit("no-such.service"))
    one.succeed("systemd-run --wait --unit=fails false || true")
    assert seen(lambda: one.wait_for_unit("fails.service"))
    one.require_unit_state("fails.service", "failed")
    t.assertEqual(one.get_unit_info("fails.service")["Result"], "exit-code")
    t.assertEqual(one.get_unit_property("fails.service", "ActiveState"), "failed")
    t.assertEqual(one.systemctl("is-active fails.service"), (3, "failed\n"))

with subtest("files"):
    two.copy_from_host("/etc/passwd", "/srv/here/passwd")
    t.assertIn("root:", two.succeed("cat /srv/here/passwd"))

with subtest("the cable"):
    reach = "timeout 2 bash -c ': </dev/tcp/two/7000'"
    two.succeed("systemd-run --unit=listens python3 -m http.server 7000")
    two.wait_for_open_port(7000)
    one.wait_until_succeeds(reach, timeout=20)
    two.block()
    one.wait_until_fails(reach, timeout=20)
    two.unblock()
    one.wait_until_succeeds(reach, timeout=20)
    two.succeed("systemctl stop listens")
    two.wait_for_closed_port(7000, timeout=10)

with subtest("standing still"):
    two.succeed("systemd-run --unit=counts bash -c 'while sleep 0.1; do echo >>/tmp/count; done'")
    two.wait_for_file("/tmp/count")
    two.send_monitor_command("stop")
    one.sleep(3)
    two.send_monitor_command("cont")
    one.wait_until_succeeds("true")
    t.assertLess(int(two.succeed("wc -l </tmp/count")), 25)

with subtest("power"):
    boot = "cat /proc/sys/kernel/random/boot_id /proc/1/stat | cut -d' ' -f1,22 | md5sum"
    was = one.succeed(boot)
    one.succeed("echo kept >/srv/kept; echo flushed >/srv/flushed; sync")
    one.reboot()
    one.wait_for_unit("multi-user.target")
    t.assertNotEqual(one.succeed(boot), was, "it is another boot")
    one.succeed("cat /srv/kept")
    one.succeed("echo lost >/srv/lost")
    one.crash()
    one.start()
    one.succeed("cat /srv/flushed")
    one.fail("grep lost /srv/lost")
    two.succeed("echo kept >/srv/kept")
    two.shutdown()
    two.start()
    two.succeed("cat /srv/kept")
