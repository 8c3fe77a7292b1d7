package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	"k8s.io/kubectl/pkg/cmd/util"
)

// localKubeconfig is where `keelson up` writes the way to its cluster, unless told otherwise.
const localKubeconfig = "data/kubeconfig"

// kubectlCommand is the real kubectl. Without --kubeconfig and $KUBECONFIG it talks to the cluster of `keelson up` in this
// directory, if there is one.
func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl [command]", Short: "The real kubectl", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
			flags := genericclioptions.NewConfigFlags(true).WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams)
			useLocalCluster(flags)
			c := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
				PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
				Arguments:     append([]string{"kubectl"}, args...),
				ConfigFlags:   flags,
				IOStreams:     streams,
			})
			c.SetArgs(args)
			if err := cli.RunNoErrOutput(c); err != nil {
				util.CheckErr(err) // it says what is wrong as kubectl does, and exits
			}
			return nil
		},
	}
}

// useLocalCluster makes the cluster of `keelson up` in this directory, if there is one, the one that is talked to unless a
// flag or $KUBECONFIG says otherwise.
func useLocalCluster(flags *genericclioptions.ConfigFlags) {
	if _, err := os.Stat(localKubeconfig); err == nil && os.Getenv("KUBECONFIG") == "" && *flags.KubeConfig == "" {
		*flags.KubeConfig = localKubeconfig
	}
}
