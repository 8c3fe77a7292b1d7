// Command keelson is the one binary: store member, API server, controllers, scheduler, clients, offline tools and benchmarks.
//
// Called through a link named etcd, etcdctl or etcdutl it behaves as the subcommand server, ctl or utl.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keelson-io/keelson/client/ctl"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
	"github.com/keelson-io/keelson/server/backup"
	"github.com/keelson-io/keelson/server/utl"
)

// personalities maps the name that the binary is called by to a subcommand.
var personalities = map[string]string{"etcd": "server", "etcdctl": "ctl", "etcdutl": "utl"}

func main() {
	if shim.Reexec() || asPlugin() { // before anything looks at the arguments
		return
	}
	root := command()
	root.SetArgs(arguments(os.Args))
	if err := root.Execute(); err != nil {
		if err.Error() != "" { // or it was told already
			fmt.Fprintln(os.Stderr, "Error:", err)
		}
		os.Exit(exitCode(err))
	}
}

// arguments are those of the subcommand that the binary was called for. etcd has subcommands that are the binary's own here.
func arguments(argv []string) []string {
	sub, ok := personalities[filepath.Base(argv[0])]
	if args := argv[1:]; !ok || sub == "server" && len(args) > 0 && (args[0] == "gateway" || args[0] == "grpc-proxy") {
		return args
	}
	return append([]string{sub}, argv[1:]...)
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "keelson",
		Short:         "A store that speaks etcd, and a control plane that speaks Kubernetes",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), apiserverCommand(), controllersCommand(), schedulerCommand(), nodeCommand(), tokenCommand(), hollowCommand(), explainCommand(), kubectlCommand(), imageCommand(),
		serverCommand(), gatewayCommand(), grpcProxyCommand(), ctl.Command(), utl.Command(), backup.Command(), benchCommand(), versionCommand())
	return root
}

// exitCoder is an error that knows the exit status it should lead to.
type exitCoder interface{ ExitCode() int }

func exitCode(err error) int {
	if c, ok := err.(exitCoder); ok {
		return c.ExitCode()
	}
	return 1
}
