package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/srv"
)

const program = "etcdctl"

// Command returns the command "ctl". See the package comment.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:                "ctl",
		Short:              "Talks to a running cluster, with the commands of etcdctl",
		DisableFlagParsing: true,
		SilenceUsage:       true,
		SilenceErrors:      true,
	}
	run := func(cmd *cobra.Command, args []string) error {
		c := &ctl{in: cmd.InOrStdin(), out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), environ: os.Environ(),
			lookupSRV: net.DefaultResolver.LookupSRV}
		return c.execute(cmd.Context(), args)
	}
	cmd.RunE = run
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		if err := run(cmd, []string{"--help"}); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "Error:", err)
		}
	})
	return cmd
}

// ctl is one execution of a command.
type ctl struct {
	in        io.Reader
	out, errs io.Writer
	environ   []string
	globals   globals
	lookupSRV srv.Lookup
	log       *zap.Logger   // set by open
	lines     *bufio.Reader // of in, once a password was read from it
}

// execute runs the command that args spell.
func (c *ctl) execute(ctx context.Context, args []string) error {
	if ctx == nil {
		ctx = context.Background()
	}
	if !cobra.EnablePrefixMatching { // "etcdctl mem li" is one of etcdctl's interfaces too
		cobra.EnablePrefixMatching = true
	}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetErr(c.errs)
	if c.out != os.Stdout { // or cobra's messages for standard error would follow the results
		root.SetOut(c.out)
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return nil
	}
	var ours *exitError
	if !errors.As(err, &ours) { // cobra did not understand the command line
		fmt.Fprintln(c.errs, "Error:", err)
		if cmd.HasParent() || cmd.Runnable() {
			fmt.Fprintln(c.errs, cmd.UsageString())
		} else {
			fmt.Fprintf(c.errs, "Run '%v --help' for usage.\n", cmd.CommandPath())
		}
		return exit(ExitError, nil)
	}
	return err
}

// The groups that commands are listed in.
const (
	groupKV          = "kv"
	groupMaintenance = "cluster maintenance"
	groupConcurrency = "concurrency"
	groupUsers       = "users"
	groupUtility     = "utility"
)

func (c *ctl) root() *cobra.Command {
	root := &cobra.Command{
		Use:           program,
		Short:         "A command line client of Keelson and etcd",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	if filepath.Base(os.Args[0]) != program {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "keelson ctl"}
	}
	c.globals.register(root.PersistentFlags())
	_ = root.RegisterFlagCompletionFunc("write-out", oneOf(formats()...))
	root.AddGroup(
		&cobra.Group{ID: groupKV, Title: "Key-value commands"},
		&cobra.Group{ID: groupMaintenance, Title: "Cluster maintenance commands"},
		&cobra.Group{ID: groupConcurrency, Title: "Concurrency commands"},
		&cobra.Group{ID: groupUsers, Title: "Authentication commands"},
		&cobra.Group{ID: groupUtility, Title: "Utility commands"},
	)
	grouped := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	grouped(groupKV, c.get(), c.put(), c.del(), c.txn(), c.compaction(), c.watch(), c.lease())
	grouped(groupMaintenance, c.member(), c.endpoint(), c.alarm(), c.defrag(), c.snapshot(), c.moveLeader(), c.downgrade(), c.top(), c.doctor())
	grouped(groupConcurrency, c.lock(), c.elect())
	grouped(groupUsers, c.auth(), c.user(), c.role())
	grouped(groupUtility, c.makeMirror(), c.check())
	grouped(groupUtility, c.version(), c.completion(), c.options(root))
	root.SetHelpCommandGroupID(groupUtility)
	tidyHelp(root)
	codeErrors(root)
	return root
}

// tidyHelp keeps the global flags out of every command's help; the command "options" shows them.
func tidyHelp(root *cobra.Command) {
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { f.Hidden = true })
	root.InitDefaultHelpFlag()
	root.Flags().Lookup("help").Hidden = true
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help(cmd, args)
		fmt.Fprintf(cmd.OutOrStdout(), "Use %q for a list of global command-line options (applies to all commands).\n",
			root.CommandPath()+" options")
	})
}

// codeErrors gives all errors of commands an exit status, which those of cobra's parser do not have.
func codeErrors(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error { return withCode(ExitError, run(cmd, args)) }
	}
	for _, sub := range cmd.Commands() {
		codeErrors(sub)
	}
}

// oneOf completes a flag's or argument's value.
func oneOf(values ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveDefault
	}
}
