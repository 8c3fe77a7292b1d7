package main

import (
	"context"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/orchestrator/cluster"
)

func hollowCommand() *cobra.Command {
	var w cluster.Worker
	var count int
	var prefix string
	cmd := &cobra.Command{
		Use: "hollow", Short: "Run simulated nodes", Args: cobra.NoArgs,
		Long: "Run nodes that take pods through their lives without running anything, for tests of scale.",
	}
	cmd.Flags().StringVar(&w.Kubeconfig, "kubeconfig", "data/kubeconfig", "How to reach the API server. A file that is not there yet is waited for.")
	cmd.Flags().StringVar(&w.MetricsAddress, "metrics-address", "", "IP address and port to serve /metrics, /healthz and /readyz on over HTTP; empty: nowhere.")
	cmd.Flags().IntVar(&count, "nodes", 1, "Number of nodes.")
	cmd.Flags().StringVar(&prefix, "prefix", "hollow-", "What the nodes' names begin with. Every such process of a cluster needs its own.")
	logs := logFlags(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		return runRole(logs, func(ctx context.Context, lg *zap.Logger) error {
			w.Logger = lg
			return cluster.RunHollow(ctx, w, count, prefix)
		})
	}
	return cmd
}
