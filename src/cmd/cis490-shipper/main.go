// Command cis490-shipper ships the sealed episodes of a lab host to the
// receiver.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/config"
	"cis490/src/durable"
	"cis490/src/identity"
	"cis490/src/liveness"
	"cis490/src/queue"
	"cis490/src/ship"
)

func main() { cli.Main(command()) }

func command() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "cis490-shipper",
		Short: "Ship the sealed episodes of this lab host to the receiver",
		Args:  cobra.NoArgs,
	}
	cli.ConfigFlag(c, &file, cli.LabHostConfig)
	c.AddCommand(runCommand(&file), statusCommand(&file), pushCommand(&file), quarantineCommand(&file), auditCommand(&file), cli.CheckLabHost(&file))
	return c
}

// open makes the shipper of a lab host and takes its queue; the caller closes
// the queue after the shipper has stopped.
func open(cfg config.LabHost, n *liveness.Notifier, tracker *liveness.Tracker, log *slog.Logger) (*ship.Shipper, *queue.Queue, error) {
	q, err := queue.Open(cfg.DataDir, queue.WithLog(log), queue.WithKeepShipped(cfg.Shipper.KeepShipped), queue.WithWorker(tracker.Worker("removal")))
	if err != nil {
		return nil, nil, hint(err)
	}
	if err := q.Lock(); err != nil {
		if errors.Is(err, durable.ErrLocked) {
			return nil, nil, fmt.Errorf("another shipper has %s: systemctl status cis490-shipper (%w)", cfg.DataDir, err)
		}
		return nil, nil, hint(err)
	}
	s, err := assemble(cfg, ship.Deps{Queue: q, Notifier: n, Tracker: tracker, Log: log})
	if err != nil {
		_ = q.Close() // the other error counts
		return nil, nil, hint(err)
	}
	return s, q, nil
}

func assemble(cfg config.LabHost, d ship.Deps) (_ *ship.Shipper, err error) {
	if d.Identity, d.Key, err = identify(cfg); err != nil {
		return nil, err
	}
	return ship.New(cfg, d)
}

// identify is who this host is, and whom it trusts.
func identify(cfg config.LabHost) (*identity.Client, string, error) {
	cert, key, err := identity.LoadOrMakeHostKey(filepath.Join(cfg.DataDir, "identity"))
	if err != nil {
		return nil, "", err
	}
	id, err := identity.NewClient(cert, cfg.Receiver.CAFile, cfg.Receiver.Name())
	return id, key, err
}

// hint says who may do what was denied.
func hint(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: run this as the user of cis490-shipper.service, or as root", err)
	}
	return err
}
