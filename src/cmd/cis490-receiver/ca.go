package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cis490/src/cli"
	"cis490/src/config"
	"cis490/src/identity"
)

func caCommand(file *string) *cobra.Command {
	c := &cobra.Command{
		Use:   "ca",
		Short: "The receiver's own certification authority",
	}
	c.AddCommand(&cobra.Command{
		Use:   "init",
		Short: "Make the CA once; run again, it only says where it is",
		Long: `Makes the key and the certificate of the CA that the receiver issues its own
certificates from. The hosts need a copy of the CA's certificate; it is public.
The key never leaves this machine, and nothing overwrites it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.LoadReceiver(*file)
			if err != nil {
				return err
			}
			if cfg.TLS.CertFile != "" {
				return cli.UsageErrorf("tls.cert_file is set in %s: the receiver uses that certificate and needs no CA", *file)
			}
			ca, made, err := identity.InitCA(cfg.TLS.CACertFile, cfg.TLS.CAKeyFile)
			if err != nil {
				return hint(err)
			}
			verb := "The CA was there already"
			if made {
				verb = "Made the CA"
			}
			fmt.Fprintf(c.OutOrStdout(), `%s.
  certificate  %s
  fingerprint  %s
  names        %s

Copy the certificate to every lab host, and name it in the receiver block of its lab-host.hcl:
  ca_file = "/etc/cis490/ca.crt"
`, verb, cfg.TLS.CACertFile, identity.Fingerprint(ca.Cert), strings.Join(cfg.TLS.Names, ", "))
			return nil
		},
	})
	return c
}
