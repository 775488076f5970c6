# The shipper under a real systemd: ready once its queue is constructed, killed by the watchdog when it stops, restarted, and never
# killed because the receiver is gone.
root=$(host_root lab1)
(cd "$repo" && CGO_ENABLED=0 go build -trimpath -o "$root/usr/local/bin/" ./src/cmd/cis490-shipper ./src/cmd/cis490-episode)
mkdir -p "$root/etc/cis490" "$root/var/lib/cis490" "$root/root/run-1"
echo 'a result' >"$root/root/run-1/result.txt"
cat >"$root/etc/cis490/lab-host.hcl" <<'HCL'
host = "lab1"
receiver {
  url = "https://192.0.2.1:8490" # TEST-NET: nobody answers
}
HCL
host_start lab1
on() { host_exec lab1 "$@"; }
show() { on systemctl show shipper -p "$1" --value; }
on cis490-episode seal /root/run-1 >/dev/null

on systemd-run --quiet --unit=shipper --property=Type=notify --property=WatchdogSec=10 --property=Restart=on-failure \
  --property=RestartSec=100ms cis490-shipper run
[ "$(on systemctl is-active shipper)" = active ] || fail "not active after READY=1"
pid=$(show MainPID)
echo "active, pid $pid: $(show StatusText)"

# A receiver that does not answer for longer than the watchdog's time is no reason to die.
sleep 14
[ "$(show MainPID)" = "$pid" ] || fail "restarted although only the receiver is gone"
[ "$(show NRestarts)" = 0 ] || fail "NRestarts=$(show NRestarts)"
echo "alive after 14 s without a receiver: $(show StatusText)"

on kill -STOP "$pid"
last=$(show WatchdogTimestampMonotonic)
wait_until 20 bash -c "nsenter -t $(cat "$RIG_WORK/lab1/leader.pid") -a journalctl -u shipper -o cat | grep -q 'Watchdog timeout'"
on journalctl -u shipper -o cat | grep -F 'Watchdog timeout (limit 10s)!' || fail "another message"
killed=$(on journalctl -u shipper -o json | grep -F 'Watchdog timeout' | sed 's/.*"__MONOTONIC_TIMESTAMP":"\([0-9]*\)".*/\1/')
took=$(((killed - last) / 1000))
echo "killed $took ms after the last ping"
[ $took -ge 10000 ] && [ $took -le 11000 ] || fail "not within a second of 10 s"
on journalctl -u shipper -o cat | grep -F 'SIGABRT' || fail "no SIGABRT"
on journalctl -u shipper -o cat | grep '^goroutine ' >/dev/null || fail "no goroutines in the journal"
restarted() { [ "$(show NRestarts)" = 1 ] && [ "$(on systemctl is-active shipper)" = active ]; }
wait_until 20 restarted
echo "restarted, pid $(show MainPID): $(show StatusText)"
on systemctl stop shipper
[ -n "$(on ls /var/lib/cis490/sealed)" ] || fail "the episode is gone from the queue"
host_stop lab1
