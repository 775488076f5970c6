package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"cis490/src/config"
	"cis490/src/journal"
	"cis490/src/liveness"
	"cis490/src/queue"
	"cis490/src/ship"
)

func runCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Ship until stopped: what cis490-shipper.service runs",
		Long: `Ships what is sealed, as it is sealed, until SIGTERM or SIGINT. Then uploads
that will end within stop_timeout are finished and the others parked; they are
resumed by the next run. A second signal ends it at once.

SIGHUP reads the configuration again. Uploads under way go on with the new one
from their last frame; a configuration with a mistake changes nothing. A new
data_dir takes a restart.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			r := runner{notifier: liveness.NewNotifier(), tracker: liveness.NewTracker(), log: journal.New(os.Stderr, journal.Options{})}
			r.load = func() (config.LabHost, error) {
				return config.LoadLabHost(*file, config.WithWatchdog(r.notifier.WatchdogInterval()))
			}
			cfg, err := r.load()
			if err != nil {
				return err
			}
			s, q, err := open(cfg, r.notifier, r.tracker, r.log)
			if err != nil {
				return err
			}
			defer func() {
				if cerr := q.Close(); err == nil {
					err = cerr
				}
			}()
			r.queue, r.dataDir = q, cfg.DataDir
			return r.run(c.Context(), s, hup)
		},
	}
}

// runner runs one Shipper after the other on one queue: each SIGHUP with a
// configuration that can be used begins the next.
type runner struct {
	notifier *liveness.Notifier
	tracker  *liveness.Tracker
	log      *slog.Logger
	load     func() (config.LabHost, error)
	queue    *queue.Queue
	dataDir  string
}

func (r *runner) run(ctx context.Context, s *ship.Shipper, hup <-chan os.Signal) error {
	for {
		ends, reload := context.WithCancelCause(ctx)
		over, next := make(chan struct{}), make(chan *ship.Shipper, 1)
		go func() {
			defer close(next)
			for {
				select {
				case <-over:
					return
				case <-hup:
				}
				_ = r.notifier.Reloading() // Ready ends it: ours, or that of the next Shipper
				n, err := r.reload()
				if err == nil {
					next <- n
					reload(ship.ErrReload)
					return
				}
				r.log.Error("reload refused, the old configuration stays", "error", err)
				_ = r.notifier.Ready()
			}
		}()
		err := s.Run(ends)
		close(over)
		n := <-next
		reload(nil)
		if err != nil || n == nil || ctx.Err() != nil {
			return err
		}
		r.log.Info("configuration reloaded")
		s = n
	}
}

// reload makes the Shipper that goes on with the new configuration. Nothing of it
// runs yet.
func (r *runner) reload() (*ship.Shipper, error) {
	cfg, err := r.load()
	if err != nil {
		return nil, err
	}
	if cfg.DataDir != r.dataDir {
		return nil, errors.New("data_dir is another one: that takes systemctl restart cis490-shipper")
	}
	n, err := assemble(cfg, ship.Deps{Queue: r.queue, Notifier: r.notifier, Tracker: r.tracker, Log: r.log})
	if err == nil {
		r.queue.SetKeepShipped(cfg.Shipper.KeepShipped)
	}
	return n, err
}
