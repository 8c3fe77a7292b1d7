package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/orchestrator/cluster"
)

func upCommand() *cobra.Command {
	var o cluster.Options
	cmd := &cobra.Command{
		Use: "up", Short: "Run the whole platform in this process", Args: cobra.NoArgs,
		Long: "Run a store member, the API server, the controllers, the scheduler and the node of this machine in this process.",
	}
	apiFlags(cmd.Flags(), &o.API)
	loopFlags(cmd.Flags(), &o.Loops)
	cmd.Flags().StringSliceVar(&o.StoreEndpoints, "store-endpoints", nil, "Client URLs of a Keelson or etcd cluster (default: an embedded member).")
	var n cluster.Node
	read := nodeFlags(cmd.Flags(), &n, "node-")
	withNode := cmd.Flags().Bool("node", false, "Make this machine a node that runs pods in containers (default: where it can be one, unless --hollow-nodes is given).")
	cmd.Flags().IntVar(&o.HollowNodes, "hollow-nodes", 0, "Number of simulated nodes (default: 1 where this machine is no node).")
	cmd.Flags().IntVar(&o.HollowZones, "hollow-zones", 0, "Number of zones that the simulated nodes are spread over; 0: none.")
	cmd.Flags().BoolVar(&o.HollowUnstarted, "hollow-unstarted", false, "Simulated nodes leave pods pending, for measurements of the scheduler.")
	schedulerConfig := cmd.Flags().String("scheduler-config", "", "File with a KubeSchedulerConfiguration.")
	logs := logFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.Scheduler, err = readSchedulerConfig(*schedulerConfig); err != nil {
			return err
		}
		if err := read(); err != nil {
			return err
		}
		n.Dir = filepath.Join(o.DataDir, "node")
		if err := chooseNodes(cmd, &o, &n, *withNode); err != nil {
			return err
		}
		return runRole(logs, func(ctx context.Context, lg *zap.Logger) error {
			o.Logger, o.Out = lg, cmd.OutOrStdout()
			return cluster.Up(ctx, o)
		})
	}
	return cmd
}

// chooseNodes decides what the nodes are: this machine, simulated ones, or both. Where nobody said, it is this machine if it can be one.
func chooseNodes(cmd *cobra.Command, o *cluster.Options, n *cluster.Node, asked bool) error {
	given, hollow := cmd.Flags().Changed("node"), cmd.Flags().Changed("hollow-nodes")
	if asked || !given && !hollow {
		err := cluster.CheckNode(n)
		if err == nil {
			o.Node = n
			return nil
		}
		if given {
			return err
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%v: a simulated node runs instead, and pods have no containers\n", err)
	}
	if !hollow {
		o.HollowNodes = 1
	}
	return nil
}
