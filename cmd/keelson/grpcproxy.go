package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/grpcproxy"
	"github.com/keelson-io/keelson/server/logging"
)

func grpcProxyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "grpc-proxy", Short: "A proxy that asks the members of a store cluster once for many clients"}
	cmd.AddCommand(grpcProxyStartCommand())
	return cmd
}

func grpcProxyStartCommand() *cobra.Command {
	var o grpcproxy.Options
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run the proxy",
		Long:  "Speak etcd's API with clients, and ask the members once for what many clients want: watches, renewals of leases, reads.",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			log := config.Default().Log
			if o.Debug {
				log.Level = "debug"
			}
			lg, closeLog, err := logging.New(log)
			if err != nil {
				return err
			}
			defer closeLog()
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			p, err := grpcproxy.Open(ctx, o, lg)
			if err != nil {
				return err
			}
			return p.Serve(ctx)
		},
	}
	o.Flags(cmd.Flags())
	return cmd
}
