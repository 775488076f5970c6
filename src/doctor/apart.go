package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"cis490/src/health"
)

// patience is what the process that looks may take to start and to write, beside
// all of its checks.
const patience = 700 * time.Millisecond

// Apart has another process, self with args, look and write the report as JSON.
// One that waits for a disk that hangs can neither be killed nor end: it is left
// behind, and this one is free to go.
func Apart(ctx context.Context, self string, args ...string) (r health.Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, all+patience)
	defer cancel()
	cmd := exec.Command(self, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is told by hand
	// Pipes of our own: nothing that it leaves open may hold whoever reads ours.
	out, w, err := os.Pipe()
	if err != nil {
		return r, err
	}
	defer out.Close()
	errs, ew, err := os.Pipe()
	if err != nil {
		return r, errors.Join(err, w.Close())
	}
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = w, ew
	err = cmd.Start()
	if err = errors.Join(err, w.Close(), ew.Close()); err != nil {
		return r, err
	}
	go func() { _ = cmd.Wait() }() // for good, where it hangs
	type answer struct {
		r   health.Report
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		if a.err = json.NewDecoder(out).Decode(&a.r); a.err != nil {
			said, _ := io.ReadAll(io.LimitReader(errs, 64<<10)) // what there is says why
			a.err = fmt.Errorf("the process that looks gave no report (%w): %s", a.err, bytes.TrimSpace(said))
		}
		answers <- a
	}()
	select {
	case a := <-answers:
		return a.r, a.err
	case <-ctx.Done():
		_ = cmd.Process.Kill() // it may be beyond that
		if errors.Is(ctx.Err(), context.Canceled) {
			return r, errors.New("interrupted")
		}
		return r, fmt.Errorf("the process that looks has not answered within %s; %s", all+patience, hung)
	}
}
