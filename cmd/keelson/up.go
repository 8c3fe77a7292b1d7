package main

import (
	"context"
	"errors"
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
	withNode := cmd.Flags().Bool("node", false, "Make this machine a node that runs pods in containers, which needs root.")
	cmd.Flags().IntVar(&o.HollowNodes, "hollow-nodes", 1, "Number of simulated nodes; with --node none, unless this flag is given.")
	cmd.Flags().IntVar(&o.HollowZones, "hollow-zones", 0, "Number of zones that the simulated nodes are spread over; 0: none.")
	cmd.Flags().BoolVar(&o.HollowUnstarted, "hollow-unstarted", false, "Simulated nodes leave pods pending, for measurements of the scheduler.")
	schedulerConfig := cmd.Flags().String("scheduler-config", "", "File with a KubeSchedulerConfiguration.")
	logs := logFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.Scheduler, err = readSchedulerConfig(*schedulerConfig); err != nil {
			return err
		}
		if *withNode {
			if err := errors.Join(read(), mayRunNode()); err != nil {
				return fmt.Errorf("%w (without --node a simulated node runs)", err)
			}
			if !cmd.Flags().Changed("hollow-nodes") {
				o.HollowNodes = 0
			}
			n.Dir = filepath.Join(o.DataDir, "node")
			o.Node = &n
		}
		return runRole(logs, func(ctx context.Context, lg *zap.Logger) error {
			o.Logger, o.Out = lg, cmd.OutOrStdout()
			return cluster.Up(ctx, o)
		})
	}
	return cmd
}
