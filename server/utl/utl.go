package utl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const program = "etcdutl"

// Command returns the command "utl". See the package comment.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:                "utl",
		Short:              "Works on snapshots and data directories, with the commands of etcdutl",
		DisableFlagParsing: true, // a command tree of its own parses them
		SilenceUsage:       true,
		SilenceErrors:      true,
	}
	run := func(cmd *cobra.Command, args []string) error {
		u := &utl{out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr()}
		return u.execute(cmd.Context(), args)
	}
	cmd.RunE = run
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		if err := run(cmd, []string{"--help"}); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "Error:", err)
		}
	})
	return cmd
}

// utl is one execution of a command.
type utl struct {
	out, errs io.Writer
	format    string
	timeout   time.Duration // for locks on files, 0: none
}

// execute runs the command that args spell.
func (u *utl) execute(ctx context.Context, args []string) error {
	if ctx == nil {
		ctx = context.Background()
	}
	if !cobra.EnablePrefixMatching { // "etcdutl snap stat" works there, too
		cobra.EnablePrefixMatching = true
	}
	root := u.root()
	root.SetArgs(args)
	root.SetErr(u.errs)
	if u.out != os.Stdout { // or cobra's messages for standard error would follow the results
		root.SetOut(u.out)
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return nil
	}
	var ours *exitError
	if !errors.As(err, &ours) { // cobra did not understand the command line
		fmt.Fprintln(u.errs, "Error:", err)
		if cmd.HasParent() || cmd.Runnable() {
			fmt.Fprintln(u.errs, cmd.UsageString())
		} else {
			fmt.Fprintf(u.errs, "Run '%v --help' for usage.\n", cmd.CommandPath())
		}
		return exit(ExitError, nil)
	}
	return err
}

func (u *utl) root() *cobra.Command {
	root := &cobra.Command{
		Use:           program,
		Short:         "Works on snapshots and data directories of Keelson and etcd",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	if filepath.Base(os.Args[0]) != program {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "keelson utl"}
	}
	fs := root.PersistentFlags()
	fs.DurationVar(&u.timeout, "timeout", 10*time.Second, "time to wait for the lock on a database file, 0 to wait forever")
	fs.StringVarP(&u.format, "write-out", "w", "simple", "set the output format (fields, json, protobuf, simple, table)")
	_ = root.RegisterFlagCompletionFunc("write-out", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return formats(), cobra.ShellCompDirectiveDefault
	})
	root.SetHelpTemplate(`{{.UsageString}}`)
	root.AddCommand(u.defrag(), u.snapshot(), u.hashKV(), u.migrate(), u.preflight(), u.version(), u.completion())
	codeErrors(root)
	return root
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

// logger tells people at the terminal what is being done.
func (u *utl) logger() *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.AddSync(u.errs), zap.InfoLevel))
}
