package main

import (
	"context"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/logging"
)

// apiFlags are the flags of whatever runs an API server.
func apiFlags(fs *pflag.FlagSet, a *cluster.API) {
	fs.StringVar(&a.DataDir, "data-dir", "data", "Directory for certificates, keys and the embedded store.")
	fs.StringVar(&a.BindAddress, "bind-address", "127.0.0.1", "IP address to listen on.")
	fs.IntVar(&a.SecurePort, "secure-port", 6443, "Port to serve HTTPS on; 0 is any free one.")
	fs.StringVar(&a.Kubeconfig, "kubeconfig", "", "File to write the way to reach the API server to (default <data-dir>/kubeconfig).")
	fs.StringSliceVar(&a.StoreEndpoints, "store-endpoints", nil, "Client URLs of a Keelson or etcd cluster (default: an embedded member).")
}

// logFlags are the flags about logging.
func logFlags(fs *pflag.FlagSet) *config.Log {
	l := &config.Log{Outputs: []string{"stderr"}}
	fs.StringVar(&l.Level, "log-level", "warn", "What is logged: debug, info, warn or error.")
	fs.StringVar(&l.Format, "log-format", "console", "How it is logged: json or console.")
	return l
}

func upCommand() *cobra.Command {
	var o cluster.Options
	cmd := &cobra.Command{
		Use: "up", Short: "Run the whole platform in this process", Args: cobra.NoArgs,
		Long: "Run a store member, the API server, controllers, the scheduler and simulated nodes in this process.",
	}
	apiFlags(cmd.Flags(), &o.API)
	cmd.Flags().IntVar(&o.HollowNodes, "hollow-nodes", 1, "Number of simulated nodes.")
	logs := logFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		lg, closeLog, err := logging.New(*logs)
		if err != nil {
			return err
		}
		defer closeLog()
		o.Logger, o.Out = lg, cmd.OutOrStdout()
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return cluster.Up(ctx, o)
	}
	return cmd
}
