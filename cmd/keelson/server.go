package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
)

// serverCommand parses its flags itself: they are etcd's, with one dash or two, and also come from a file or the
// environment.
func serverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:                "server [flags]",
		Short:              "Run a store member",
		Long:               "Run a store member. Every flag is also the environment variable ETCD_<NAME> and a key of --config-file.",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			long := config.LongFlags(args)
			switch {
			case slices.Contains(long, "--help") || slices.Contains(long, "-h"):
				return cmd.Help()
			case slices.Contains(long, "--version"):
				printVersion(cmd.OutOrStdout())
				return nil
			}
			cfg, err := config.Parse(args, os.Environ())
			if err != nil {
				return fmt.Errorf("error verifying flags, %w. See 'keelson server --help'", err)
			}
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return server.Run(ctx, cfg)
		},
	}
	config.Flags().VisitAll(func(f *pflag.Flag) { cmd.Flags().AddFlag(f) })
	return cmd
}
