package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// unit is what systemd says of a service (org.freedesktop.systemd1(5)).
type unit struct {
	name     string
	err      error // why it could not be asked
	says     map[string]string
	restarts int
	active   time.Time // when it last became active; zero: never
}

var unitProperties = []string{"LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts", "User", "MainPID", "ActiveEnterTimestamp", "NeedDaemonReload"}

// errNoSystemd: this machine is not run by systemd.
var errNoSystemd = errors.New("systemd does not run this machine")

func lookAtUnit(ctx context.Context, name string) unit {
	u := unit{name: name}
	if _, err := os.Stat("/run/systemd/system"); errors.Is(err, fs.ErrNotExist) {
		u.err = errNoSystemd // sd_booted(3)
		return u
	}
	out, errs, err := output(ctx, "systemctl", "show", "--timestamp=unix", "--property="+strings.Join(unitProperties, ","), name+".service")
	if err != nil {
		u.err = fmt.Errorf("systemctl show: %w", err)
		if errors.Is(err, exec.ErrNotFound) {
			u.err = errors.New("there is no systemctl on PATH")
		} else if s := firstLine(errs); s != "" {
			u.err = errors.New("systemctl show: " + s)
		}
		return u
	}
	u.parse(out)
	return u
}

func (u *unit) parse(show string) {
	u.says = map[string]string{}
	for line := range strings.Lines(show) {
		if k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			u.says[k] = v
		}
	}
	u.restarts, _ = strconv.Atoi(u.says["NRestarts"]) // 0 before systemd counted them
	if s, err := strconv.ParseInt(strings.TrimPrefix(u.says["ActiveEnterTimestamp"], "@"), 10, 64); err == nil && s > 0 {
		u.active = time.Unix(s, 0)
	}
}

// running says that systemd has the unit up.
func (u unit) running() bool { return u.says["ActiveState"] == "active" }

func (u unit) row(option string) Finding {
	if u.err != nil {
		fix := "sudo cis490-doctor"
		if errors.Is(u.err, errNoSystemd) {
			fix = "nothing restarts the daemon here: install its unit on a machine that systemd runs"
		}
		return unknown("can't ask systemd about "+u.name, u.err.Error(), fix)
	}
	start := "systemctl start " + u.name
	disabled := u.says["UnitFileState"] == "disabled"
	if disabled {
		start = "systemctl enable --now " + u.name
	}
	why := "journalctl -u " + u.name + " -n 30 -p warning; then: "
	result := u.says["Result"]
	state := fmt.Sprintf("%s (%s), Result=%s, ExecMainStatus=%s, NRestarts=%d", u.says["ActiveState"], u.says["SubState"], result, u.says["ExecMainStatus"], u.restarts)
	switch {
	case u.says["LoadState"] == "not-found":
		return red("there is no unit "+u.name+".service", "LoadState=not-found", "on NixOS: "+option+" = true; elsewhere install the package of units and: systemctl daemon-reload && systemctl enable --now "+u.name)
	case u.says["LoadState"] == "masked":
		return red(u.name+" is masked", "LoadState=masked", "systemctl unmask "+u.name+" && systemctl enable --now "+u.name)
	case u.says["LoadState"] != "loaded":
		return red("systemd can't use "+u.name+".service", "LoadState="+u.says["LoadState"], "systemctl status "+u.name)
	case result == "start-limit-hit":
		return red(u.name+" was started too often and systemd has given up", state, why+"systemctl reset-failed "+u.name+" && systemctl start "+u.name)
	case u.says["ActiveState"] == "failed" && u.says["ExecMainStatus"] == "78":
		return red(u.name+" refused its configuration and is not tried again", state, why+"systemctl start "+u.name)
	case u.says["ActiveState"] == "failed":
		// Also one that was started too often: systemd keeps the result of what ended it last, and refuses to start it before this.
		return red(u.name+" has failed: "+result, state, why+"systemctl reset-failed "+u.name+" && systemctl start "+u.name)
	case u.says["SubState"] == "auto-restart" || u.says["SubState"] == "auto-restart-queued":
		title := u.name + " ends each time it is started: " + result
		if result == "watchdog" {
			title = u.name + " made no progress and was killed by the watchdog; systemd starts it again"
		}
		return red(title, state, "journalctl -u "+u.name+" -n 30 -p warning")
	case u.says["ActiveState"] == "activating" || u.says["ActiveState"] == "reloading" || u.says["ActiveState"] == "deactivating":
		return yellow(u.name+" is "+u.says["ActiveState"], state, "wait for it: systemctl status "+u.name)
	case !u.running():
		return red(u.name+" does not run", state, start)
	case disabled:
		return yellow(u.name+" runs, and will not after the next boot", "UnitFileState=disabled", "systemctl enable "+u.name)
	case u.says["NeedDaemonReload"] == "yes":
		return yellow("the unit file of "+u.name+" has changed and systemd has not read it", "NeedDaemonReload=yes", "systemctl daemon-reload && systemctl restart "+u.name)
	}
	if u.active.IsZero() {
		return green("%s runs", u.name)
	}
	return green("%s runs since %s", u.name, u.active.UTC().Format(time.RFC3339))
}

// restartsRow judges how often systemd had to start a daemon again.
func restartsRow(u unit, l log, since time.Duration, now time.Time) Finding {
	if u.err != nil {
		return unknown("can't ask systemd how often it restarted "+u.name, u.err.Error(), "cis490-doctor --only unit")
	}
	// The last of them: those before somebody started it by hand are another matter.
	n, last := min(len(l.ends), u.restarts), ""
	for _, e := range l.ends {
		last = e.result
	}
	evidence := fmt.Sprintf("NRestarts=%d", u.restarts)
	if n > 0 {
		evidence += fmt.Sprintf(", %d in the last %s, the last for: %s", n, minutes(since), last)
	}
	fix := "journalctl -u " + u.name + " -n 100 -p warning"
	if last == "watchdog" {
		fix = "journalctl -u " + u.name + " has all goroutines of the moment; look at the disk: journalctl -k -p err"
	}
	switch {
	case u.restarts == 0: // what ended without being started again is the unit's row
	case n > 1:
		return red(fmt.Sprintf("%s was restarted %d times in the last %s: %s", u.name, n, minutes(since), last), evidence, fix)
	case n == 1, now.Sub(u.active) < since:
		if last == "" {
			last = "see its journal"
		}
		return yellow(fmt.Sprintf("%s was restarted in the last %s: %s", u.name, minutes(since), last), evidence, fix)
	}
	return green("%s: %d restarts since it was first started, none in the last %s", u.name, u.restarts, minutes(since))
}

// process is what /proc says of a daemon.
type process struct {
	pid   int
	alive bool
	known bool // false: it can't be told whether it lives
	state byte // proc_pid_stat(5): R, S, D, T, Z
	uid   int  // -1: not known
}

// lookAtProcess finds out whether pid is a process with that name.
func lookAtProcess(pid int, name string) process {
	p := process{pid: pid, uid: -1}
	if pid <= 0 {
		return p
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.Is(syscall.Kill(pid, 0), syscall.EPERM):
		return p // hidden from us (hidepid=)
	case err != nil:
		p.known = errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
		return p
	}
	p.known = true
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open || end+2 >= len(b) {
		return p
	}
	// The kernel keeps 15 bytes of a name.
	if comm := string(b[open+1 : end]); comm != name[:min(len(name), 15)] {
		return p // the number has gone to another
	}
	p.state = b[end+2]
	p.alive = p.state != 'Z'
	if st, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			p.uid = int(sys.Uid)
		}
	}
	return p
}

func minutes(d time.Duration) string {
	if d%time.Minute == 0 && d < 2*time.Hour {
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return d.String()
}
