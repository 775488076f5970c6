package episode

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Now is this moment by every clock of this host. What can't be read is left out.
func Now() Moment {
	m := Moment{Realtime: time.Now().UTC(), BootID: firstLine("/proc/sys/kernel/random/boot_id")}
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) == nil {
		ns := ts.Nano()
		m.MonotonicNS = &ns
	}
	var tx unix.Timex // no mode set: read only, which needs no privilege
	if state, err := unix.Adjtimex(&tx); err == nil {
		const nano = 0x2000 // STA_NANO: the offset is in nanoseconds, else in microseconds (adjtimex(2))
		synced := state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
		offset, bound := int64(tx.Offset), int64(tx.Maxerror)*1000
		if tx.Status&nano == 0 {
			offset *= 1000
		}
		m.Synchronised = &synced
		if synced { // else the two say nothing
			m.OffsetNS, m.MaxErrorNS = &offset, &bound
		}
	}
	return m
}

// ThisHost gathers what the host is. What can't be read is left out.
func ThisHost() *HostFacts {
	h := &HostFacts{CPUs: runtime.NumCPU()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
		h.Machine = unix.ByteSliceToString(u.Machine[:])
	}
	h.CPUModel = field("/proc/cpuinfo", "model name", ":")
	if kb, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal", ":"), " kB"), 10, 64); err == nil {
		h.MemoryBytes = kb << 10
	}
	h.OS = strings.Trim(field("/etc/os-release", "PRETTY_NAME", "="), `"'`)
	return h
}

// ThisSystem says which NixOS system runs, nil where none does.
func ThisSystem() *NixOS {
	system, err := os.Readlink("/run/current-system")
	if err != nil || !strings.HasPrefix(system, "/nix/store/") {
		return nil
	}
	return &NixOS{System: system}
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.ToValidUTF8(strings.TrimSpace(line), "")
}

// field finds the value of the first line whose key, up to sep, is key.
func field(path, key, sep string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if k, v, ok := strings.Cut(sc.Text(), sep); ok && strings.TrimSpace(k) == key {
			return strings.ToValidUTF8(strings.TrimSpace(v), "")
		}
	}
	return ""
}
