package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/backup/restore"
	"github.com/keelson-io/keelson/server/utl"
)

// restoreFlags are the flags of restore.
type restoreFlags struct {
	from       place
	revision   int64
	time       string
	chain      string
	toSnapshot string
	workDir    string
	directory  utl.RestoreFlags
}

func restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore --from {archive} [--revision N | --time T] {--data-dir dir [options] | --to-snapshot file}",
		Short: "Make a data directory or a snapshot of a moment",
		Long: `Makes a member's data directory of a moment in an archive, on which Keelson and etcd start, or a snapshot of etcd's format. The
moment is a revision, a time, or else the latest that the archive has. Flags about the data directory are those of
"keelson utl snapshot restore".`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	f.from.bind(fs, "from", "Archive to read")
	fs.Int64Var(&f.revision, "revision", 0, "Restore what was right after this revision was made")
	fs.StringVar(&f.time, "time", "", "Restore what was at this time, such as 2026-11-27T22:30:00Z, or so long ago, such as 15m")
	fs.StringVar(&f.chain, "chain", "", "Restore from this chain (default: the latest one that has the moment)")
	fs.StringVar(&f.toSnapshot, "to-snapshot", "", "File to make, a snapshot as \"ctl snapshot save\" makes it, instead of a data directory")
	fs.StringVar(&f.workDir, "work-dir", "", "Directory with room for a copy of the database (default: beside what is made)")
	f.directory.Bind(fs)
	logs := logFlags(fs, "warn")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runUntilSignal(cmd, logs, func(ctx context.Context, lg *zap.Logger) error {
			return f.run(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr(), lg)
		})
	}
	return cmd
}

// target is the moment that the flags say.
func (f *restoreFlags) target(now time.Time) (restore.Target, error) {
	t := restore.Target{Revision: f.revision, Chain: f.chain}
	if f.time == "" {
		return t, nil
	}
	if f.revision != 0 {
		return t, errors.New("--revision and --time exclude each other")
	}
	if ago, err := time.ParseDuration(f.time); err == nil && ago >= 0 {
		t.Time = now.Add(-ago)
		return t, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05"} {
		if at, err := time.Parse(layout, f.time); err == nil { // UTC, unless it has a zone
			t.Time = at
			return t, nil
		}
	}
	return t, fmt.Errorf("--time %s is no time such as 2026-11-27T22:30:00Z, and no duration such as 15m", strconv.Quote(f.time))
}

// check finds out, before anything is read, whether what is to be made can be.
func (f *restoreFlags) check() error {
	if f.toSnapshot == "" {
		return errors.Join(f.directory.Check(), f.directory.Free())
	}
	if _, err := os.Lstat(f.toSnapshot); err == nil {
		return fmt.Errorf("--to-snapshot: %s exists", f.toSnapshot)
	}
	return nil
}

// place is the directory in which the database is made.
func (f *restoreFlags) place() string {
	if f.workDir != "" {
		return f.workDir
	}
	dir := filepath.Dir(filepath.Clean(f.directory.DataDir()))
	if f.toSnapshot != "" {
		dir = filepath.Dir(f.toSnapshot)
	}
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

func (f *restoreFlags) run(ctx context.Context, out, errs io.Writer, lg *zap.Logger) error {
	t, err := f.target(time.Now())
	if err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	st, err := f.from.open()
	if err != nil {
		return err
	}
	cat, err := archive.Read(ctx, st)
	if err != nil {
		return err
	}
	p, err := restore.Choose(cat, t)
	if err != nil {
		return err
	}
	for _, n := range p.Notes {
		fmt.Fprintln(errs, "Note:", n)
	}
	dir, err := os.MkdirTemp(f.place(), ".keelson-restore-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	db := filepath.Join(dir, "db")
	o, err := restore.Build(ctx, st, p, db, lg)
	if err != nil {
		return err
	}
	if f.toSnapshot != "" {
		err = makeSnapshot(db, f.toSnapshot)
	} else {
		err = utl.RestoreDatabase(db, f.directory, errs)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "Restored revision %d as of %s (entry %d; compacted up to %d; hash %d).\n", o.Revision, o.Time.UTC().Format(time.RFC3339Nano), o.Index, o.CompactRevision, o.Hash)
	return err
}

// makeSnapshot makes a snapshot file of a database: a checksum is put behind it.
func makeSnapshot(db, path string) error {
	f, err := os.OpenFile(db, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err == nil {
		_, err = f.Write(h.Sum(nil))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(db, path); err == nil {
		return vfs.OS.SyncDir(filepath.Dir(path))
	}
	return copyFile(db, path) // it is on another file system
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, dst.Close()); err != nil {
			_ = os.Remove(to)
		}
	}()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return errors.Join(dst.Sync(), vfs.OS.SyncDir(filepath.Dir(to)))
}
