package main

import (
	"os"

	"github.com/spf13/cobra"

	"cis490/src/config"
	"cis490/src/journal"
	"cis490/src/liveness"
)

func runCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Ship until stopped: what cis490-shipper.service runs",
		Long: `Ships what is sealed, as it is sealed, until SIGTERM or SIGINT. Then uploads
that will end within stop_timeout are finished and the others parked; they are
resumed by the next run. A second signal ends it at once.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			notifier := liveness.NewNotifier()
			cfg, err := config.LoadLabHost(*file, config.WithWatchdog(notifier.WatchdogInterval()))
			if err != nil {
				return err
			}
			log := journal.New(os.Stderr, journal.Options{})
			s, q, err := open(cfg, notifier, log)
			if err != nil {
				return err
			}
			defer func() {
				if cerr := q.Close(); err == nil {
					err = cerr
				}
			}()
			return s.Run(c.Context())
		},
	}
}
