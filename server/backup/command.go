package backup

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/backup/store"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/logging"
)

// Command returns the command "backup". See the package comment.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Archive a cluster as it works, and restore any moment of it",
		Long: `Archives a cluster as it works, and restores any moment of it.

An archive is a directory, or s3://bucket/prefix of an S3-compatible service, whose credentials are taken from the
environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN).`,
	}
	cmd.AddCommand(runCommand(), listCommand(), verifyCommand(), pruneCommand(), restoreCommand())
	return cmd
}

// place is where an archive is.
type place struct {
	where string
	s3    store.S3Options
}

func (p *place) bind(fs *pflag.FlagSet, flag, usage string) {
	fs.StringVar(&p.where, flag, "", usage+": a directory, or s3://bucket/prefix")
	fs.StringVar(&p.s3.Endpoint, "s3-endpoint", "", "URL of the S3-compatible service, such as https://host:port (default: Amazon's)")
	fs.StringVar(&p.s3.CAFile, "s3-cacert", "", "File of the authorities that the service's certificate is verified with (default: the system's)")
	fs.StringVar(&p.s3.Region, "s3-region", "", "Region of the bucket (default: found out)")
}

func (p *place) open() (store.Store, error) { return store.Open(p.where, p.s3) }

// logFlags are the flags about logging.
func logFlags(fs *pflag.FlagSet, level string) *config.Log {
	l := &config.Log{Outputs: []string{"stderr"}}
	fs.StringVar(&l.Level, "log-level", level, "What is logged: debug, info, warn or error")
	fs.StringVar(&l.Format, "log-format", "console", "How it is logged: json or console")
	return l
}

// runUntilSignal runs something until it ends or a signal comes.
func runUntilSignal(cmd *cobra.Command, logs *config.Log, run func(ctx context.Context, lg *zap.Logger) error) error {
	lg, closeLog, err := logging.New(*logs)
	if err != nil {
		return err
	}
	defer closeLog()
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, lg)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
