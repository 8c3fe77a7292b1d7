package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/backup/restore"
	"github.com/keelson-io/keelson/server/backup/store"
)

func verifyCommand() *cobra.Command {
	var from place
	var replay bool
	var dir string
	cmd := &cobra.Command{
		Use: "verify --from {archive}", Short: "Read everything back and check it", Args: cobra.NoArgs,
		Long: `Reads everything back and checks it: checksums, contents, and that nothing is missing between. With --replay everything is restored,
too, and compared with each base on the way.`,
	}
	from.bind(cmd.Flags(), "from", "Archive to read")
	cmd.Flags().BoolVar(&replay, "replay", false, "Restore everything, too, and compare with every base")
	cmd.Flags().StringVar(&dir, "work-dir", "", "Directory with room for two copies of the database, for --replay (default: the system's for temporary files)")
	logs := logFlags(cmd.Flags(), "warn")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runUntilSignal(cmd, logs, func(ctx context.Context, lg *zap.Logger) error {
			st, err := from.open()
			if err != nil {
				return err
			}
			return verify(ctx, cmd.OutOrStdout(), st, replay, dir, lg)
		})
	}
	return cmd
}

func verify(ctx context.Context, w io.Writer, st store.Store, replay bool, dir string, lg *zap.Logger) error {
	cat, err := archive.Read(ctx, st)
	if err != nil {
		return err
	}
	r, err := archive.Verify(ctx, st, cat)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "Read %s, %s.\n", plural(r.Objects, "object", "objects"), humanize.IBytes(uint64(r.Bytes)))
	if replay && len(r.Problems) == 0 {
		if dir, err = os.MkdirTemp(dir, "keelson-verify-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		outcomes, problems, err := restore.Replay(ctx, st, cat, dir, lg)
		for _, o := range outcomes {
			fmt.Fprintf(w, "Replayed %d entries: revision %d, compacted up to %d, hash %d.\n", o.Entries, o.Revision, o.CompactRevision, o.Hash)
		}
		if err != nil {
			return err
		}
		r.Problems = append(r.Problems, problems...)
	}
	for _, p := range r.Problems {
		fmt.Fprintln(w, p)
	}
	if n := len(r.Problems); n > 0 {
		return fmt.Errorf("the archive has %s", plural(n, "fault", "faults"))
	}
	describe(w, cat)
	return nil
}

func pruneCommand() *cobra.Command {
	var from place
	var keep archive.Policy
	var dry bool
	cmd := &cobra.Command{Use: "prune --from {archive} --keep-for {duration}", Short: "Delete what a policy lets go", Args: cobra.NoArgs}
	from.bind(cmd.Flags(), "from", "Archive to prune")
	keepFlags(cmd.Flags(), &keep)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "Only print what would be deleted")
	logs := logFlags(cmd.Flags(), "warn")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runUntilSignal(cmd, logs, func(ctx context.Context, _ *zap.Logger) error {
			if err := checkPolicy(keep); err != nil {
				return err
			}
			if !keep.Any() {
				return errors.New("nothing says what to keep: --keep-for or --keep-bases")
			}
			st, err := from.open()
			if err != nil {
				return err
			}
			return prune(ctx, cmd.OutOrStdout(), st, keep, dry)
		})
	}
	return cmd
}

func prune(ctx context.Context, w io.Writer, st store.Store, keep archive.Policy, dry bool) error {
	var names []string
	if dry {
		cat, err := archive.Read(ctx, st)
		if err != nil {
			return err
		}
		names = cat.Expired(keep, time.Now())
	} else {
		var err error
		if names, err = archive.Prune(ctx, st, keep, time.Now()); err != nil {
			return err
		}
	}
	for _, name := range names {
		fmt.Fprintln(w, name)
	}
	return nil
}
