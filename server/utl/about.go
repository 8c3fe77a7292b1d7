package utl

import (
	"fmt"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/version"
)

func (u *utl) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints which version of etcdutl this command is equal to",
		Run: func(*cobra.Command, []string) {
			fmt.Fprintln(u.out, "etcdutl version:", version.Version)
			fmt.Fprintln(u.out, "API version:", version.APIVersion)
		},
	}
}

func (u *utl) completion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion [bash|zsh|fish|powershell]",
		Short: "Prints a script that makes a shell complete this command",
		Long: `Prints a script that makes a shell complete the command etcdutl, a link of that name to this program.

For the present shell:

  $ source <(etcdutl completion bash)
  $ source <(etcdutl completion zsh)
  $ etcdutl completion fish | source
  PS> etcdutl completion powershell | Out-String | Invoke-Expression
`,
		DisableFlagsInUseLine: true,
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletion(u.out)
			case "zsh":
				return root.GenZshCompletion(u.out)
			case "fish":
				return root.GenFishCompletion(u.out, true)
			default:
				return root.GenPowerShellCompletionWithDesc(u.out)
			}
		},
	}
}
