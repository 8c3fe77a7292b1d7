package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/logging"
	"github.com/keelson-io/keelson/server/tcpproxy"
)

func gatewayCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "gateway", Short: "A TCP gateway to the members of a store cluster"}
	cmd.AddCommand(gatewayStartCommand())
	return cmd
}

func gatewayStartCommand() *cobra.Command {
	o := tcpproxy.Options{Lookup: net.DefaultResolver.LookupSRV}
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run the gateway",
		Long:  "Pass TCP connections on to the members of a cluster, in turn or as SRV records say. TLS goes through it untouched.",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			lg, closeLog, err := logging.New(config.Default().Log)
			if err != nil {
				return err
			}
			defer closeLog()
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			l, proxy, err := tcpproxy.Open(ctx, o, lg)
			if err != nil {
				return err
			}
			proxy.Serve(ctx, l)
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.Listen, "listen-addr", "127.0.0.1:23790", "address to listen on")
	fs.StringSliceVar(&o.Endpoints, "endpoints", []string{"127.0.0.1:2379"}, "comma-separated endpoints of the cluster")
	fs.StringVar(&o.Domain, "discovery-srv", "", "domain whose SRV records name the endpoints, instead of --endpoints")
	fs.StringVar(&o.Suffix, "discovery-srv-name", "", "suffix of the service's name in these records")
	fs.BoolVar(&o.Insecure, "insecure-discovery", false, "take endpoints of these records unseen, also those without TLS")
	fs.StringVar(&o.CAFile, "trusted-ca-file", "", "path to the authorities of the discovered endpoints' certificates, which must be for the domain")
	fs.DurationVar(&o.RetryDelay, "retry-delay", time.Minute, "how long an endpoint that cannot be reached is left out")
	return cmd
}
