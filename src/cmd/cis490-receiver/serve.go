package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"cis490/src/config"
	"cis490/src/ingest"
	"cis490/src/journal"
	"cis490/src/liveness"
)

func serveCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Receive until stopped: what cis490-receiver.service runs",
		Long: `Receives, verifies and stores episodes until SIGTERM or SIGINT. Then bodies under
way may end for five seconds, the rest is cut at a frame's end and resumed later,
and what was received in full is still stored. A second signal ends it at once.

SIGHUP reads the configuration again and takes over window, hosts, limits, max_skew,
upload_max_age and the certificate, whose files are read anew; a mistake in any of it
changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			notifier := liveness.NewNotifier()
			log := journal.New(os.Stderr, journal.Options{})
			load := func() (config.Receiver, error) { return config.LoadReceiver(*file) }
			cfg, err := load()
			if err != nil {
				return err
			}
			if os.Getenv("GOMEMLIMIT") == "" {
				debug.SetMemoryLimit(int64(cfg.Limits.Memory) - ingest.OutsideHeap)
			}
			r, err := ingest.New(cfg, ingest.Deps{Log: log, Notifier: notifier})
			if err != nil {
				return hint(err)
			}
			ctx, stop := context.WithCancel(c.Context())
			defer stop()
			go func() {
				for {
					select {
					case <-hup:
						_ = r.Reload(load) // it logs what is wrong, and goes on as before
					case <-ctx.Done():
						return
					}
				}
			}()
			return r.Run(ctx)
		},
	}
}
