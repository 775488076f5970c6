package doctor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// clockSynchronised asks the kernel; it needs no privilege to read.
func clockSynchronised() (bool, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, fmt.Errorf("adjtimex: %w", err)
	}
	return t.Status&unix.STA_UNSYNC == 0, nil
}

func syncRow(synchronised bool, err error) Finding {
	const fix = "timedatectl set-ntp true; on NixOS: services.timesyncd.enable = true"
	switch {
	case err != nil:
		return unknown("can't ask the kernel about its clock", err.Error(), "timedatectl")
	case !synchronised:
		return yellow("the clock is not synchronised: nothing keeps it right", "the kernel says STA_UNSYNC (adjtimex(2))", fix)
	}
	return green("the clock is synchronised")
}
