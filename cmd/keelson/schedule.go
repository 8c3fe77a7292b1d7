package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
)

// readSchedulerConfig reads a KubeSchedulerConfiguration; without a file it returns nil.
func readSchedulerConfig(path string) (*config.Configuration, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := config.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func schedulerCommand() *cobra.Command {
	var w cluster.Worker
	var file string
	cmd := &cobra.Command{Use: "scheduler", Short: "Run the scheduler", Args: cobra.NoArgs}
	workerFlags(cmd.Flags(), &w, "127.0.0.1:10259")
	cmd.Flags().StringVar(&file, "config", "", "File with a KubeSchedulerConfiguration. Flags have precedence over it.")
	logs := logFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		conf, err := readSchedulerConfig(file)
		if err != nil {
			return err
		}
		configured(cmd.Flags(), &w, conf)
		return runRole(logs, func(ctx context.Context, lg *zap.Logger) error {
			w.Logger = lg
			return cluster.RunScheduler(ctx, w, conf)
		})
	}
	return cmd
}

// configured takes from a configuration file what no flag says.
func configured(fs *pflag.FlagSet, w *cluster.Worker, c *config.Configuration) {
	if c == nil {
		return
	}
	if !fs.Changed("kubeconfig") && c.ClientConnection.Kubeconfig != "" {
		w.Kubeconfig = c.ClientConnection.Kubeconfig
	}
	if !fs.Changed("leader-elect") && c.LeaderElection.LeaderElect != nil {
		w.LeaderElect = *c.LeaderElection.LeaderElect
	}
}

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "explain", Short: "Tell why things are as they are"}
	cmd.AddCommand(explainPodCommand())
	return cmd
}

func explainPodCommand() *cobra.Command {
	var file, output string
	flags := genericclioptions.NewConfigFlags(true)
	cmd := &cobra.Command{
		Use: "pod NAME", Short: "Tell node by node why a pod is, or is not, placed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			useLocalCluster(flags)
			conf, err := readSchedulerConfig(file)
			if err != nil {
				return err
			}
			rc, err := flags.ToRESTConfig()
			if err != nil {
				return err
			}
			namespace, _, err := flags.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			e, err := cluster.ExplainPod(cmd.Context(), rc, conf, namespace, args[0])
			if err != nil {
				return err
			}
			switch output {
			case "json":
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(e)
			case "":
				return e.Write(cmd.OutOrStdout())
			}
			return fmt.Errorf("there is no output format %q: want json, or none", output)
		},
	}
	flags.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "File with the scheduler's KubeSchedulerConfiguration (default: the default one).")
	cmd.Flags().StringVarP(&output, "output", "o", "", "Output format: json, or a table.")
	return cmd
}
