package ctl

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/api/v3/version"
)

func (c *ctl) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints which version of etcdctl this command is equal to",
		Run: func(*cobra.Command, []string) {
			fmt.Fprintln(c.out, "etcdctl version:", version.Version)
			fmt.Fprintln(c.out, "API version:", version.APIVersion)
		},
	}
}

func (c *ctl) options(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "options",
		Short: "Prints the flags that all commands have",
		Run: func(*cobra.Command, []string) {
			visible := pflag.NewFlagSet("global", pflag.ContinueOnError)
			root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
				shown := *f
				shown.Hidden = false
				visible.AddFlag(&shown)
			})
			fmt.Fprintf(c.out, "The following options can be passed to any command:\n\n%s", visible.FlagUsages())
		},
	}
}

// showFlags lists the flags' values, for --debug.
func (c *ctl) showFlags(fs *pflag.FlagSet) {
	fs.VisitAll(func(f *pflag.Flag) { fmt.Fprintf(c.errs, "%s=%v\n", envName(f.Name), f.Value) })
}

func (c *ctl) completion() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion [bash|zsh|fish|powershell]",
		Short: "Prints a script that makes a shell complete this command",
		Long: `Prints a script that makes a shell complete the command etcdctl, a link of that name to this program.

For the present shell:

  $ source <(etcdctl completion bash)
  $ source <(etcdctl completion zsh)
  $ etcdctl completion fish | source
  PS> etcdctl completion powershell | Out-String | Invoke-Expression

For all to come, write the script to where the shell looks for such, for instance:

  $ etcdctl completion bash > /etc/bash_completion.d/etcdctl
  $ etcdctl completion zsh > "${fpath[1]}/_etcdctl"
  $ etcdctl completion fish > ~/.config/fish/completions/etcdctl.fish
`,
		DisableFlagsInUseLine: true,
		ValidArgs:             shells,
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletion(c.out)
			case "zsh":
				return root.GenZshCompletion(c.out)
			case "fish":
				return root.GenFishCompletion(c.out, true)
			default:
				return root.GenPowerShellCompletionWithDesc(c.out)
			}
		},
	}
}
