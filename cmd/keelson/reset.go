package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/orchestrator/cluster"
)

func resetCommand() *cobra.Command {
	var r cluster.Reset
	var yes bool
	cmd := &cobra.Command{
		Use: "reset", Short: "Remove what the node of this machine left", Args: cobra.NoArgs,
		Long: `Remove what the node left on this machine: its pods and their processes, mounts, network, cgroups, images, certificates and logs. The
node must not run. Files of persistent volumes stay unless --volumes is given, and so do kernel settings such as net.ipv4.ip_forward.
It can be called again: it removes what is left.`,
	}
	cmd.Flags().StringVar(&r.Dir, "data-dir", "/var/lib/keelson/node", "Directory of the node; that of 'keelson up' is the folder node in its data directory.")
	cmd.Flags().StringVar(&r.Kubeconfig, "kubeconfig", "", "How to reach the API server, to delete the Node object, too.")
	cmd.Flags().BoolVar(&r.Volumes, "volumes", false, "Remove the files of persistent volumes on this machine, too.")
	cmd.Flags().BoolVar(&yes, "yes", false, "Do it.")
	logs := logFlags(cmd.Flags())
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		if !yes {
			return errors.New("this removes all pods of this machine with what is in them: say --yes if that is meant")
		}
		r.Out = c.OutOrStdout()
		return runRole(logs, func(ctx context.Context, lg *zap.Logger) error {
			r.Logger = lg
			return cluster.ResetNode(ctx, r)
		})
	}
	return cmd
}
