package utl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/server/membership"
)

const (
	defaultName    = "default"
	defaultPeerURL = "http://localhost:2380"
	defaultMmap    = 10 << 30
)

// RestoreFlags are the flags of snapshot restore, which other restores share.
type RestoreFlags struct {
	dataDir, walDir, name        string
	cluster, token, peerURLs     string
	skipHashCheck, markCompacted bool
	mmapBytes, bumpRevision      uint64
}

func (u *utl) restore() *cobra.Command {
	var f RestoreFlags
	cmd := &cobra.Command{
		Use:   "restore <filename> --data-dir {output dir} [options]",
		Short: "Makes a member's data directory from a snapshot",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("snapshot restore requires exactly one argument")
			}
			if err := f.Check(); err != nil {
				return err
			}
			return u.restoreFile(args[0], f)
		},
	}
	f.Bind(cmd.Flags())
	cmd.Flags().BoolVar(&f.skipHashCheck, "skip-hash-check", false, "Do without a checksum, for a file that was copied from a data directory")
	_ = cmd.MarkFlagDirname("data-dir")
	_ = cmd.MarkFlagDirname("wal-dir")
	return cmd
}

// Bind makes flags of it, all but skip-hash-check.
func (f *RestoreFlags) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&f.dataDir, "data-dir", "", "Data directory to make (default: the name with .etcd)")
	fs.StringVar(&f.walDir, "wal-dir", "", "Directory of the log, if not in the data directory")
	fs.StringVar(&f.cluster, "initial-cluster", defaultName+"="+defaultPeerURL, "Members of the new cluster")
	fs.StringVar(&f.token, "initial-cluster-token", "etcd-cluster", "Token of the new cluster: other tokens make other ids")
	fs.StringVar(&f.peerURLs, "initial-advertise-peer-urls", defaultPeerURL, "This member's peer URLs, as --initial-cluster has them")
	fs.StringVar(&f.name, "name", defaultName, "Name of this member")
	fs.Uint64Var(&f.mmapBytes, "initial-memory-map-size", defaultMmap, "Bytes of address space for the database while it is worked on")
	fs.Uint64Var(&f.bumpRevision, "bump-revision", 0, "How much to add to the latest revision")
	fs.BoolVar(&f.markCompacted, "mark-compacted", false, "Compact everything up to the bumped revision (required if --bump-revision > 0, disallowed otherwise)")
}

// Check finds out whether the flags fit together.
func (f *RestoreFlags) Check() error {
	if (f.bumpRevision > 0) != f.markCompacted {
		return badArgs("--mark-compacted required if --revision-bump > 0")
	}
	return nil
}

// DataDir is the directory that a restore makes.
func (f *RestoreFlags) DataDir() string {
	if f.dataDir == "" {
		return f.name + ".etcd"
	}
	return f.dataDir
}

// Free finds out whether the directories of a restore are free, and whether the members of the flags fit together.
func (f *RestoreFlags) Free() error {
	r := &restoration{flags: *f}
	if err := r.foundCluster(); err != nil {
		return err
	}
	_, err := r.placeDirs()
	return err
}

// RestoreDatabase makes a member's data directory from a database file without a checksum. What is done is told on errs.
func RestoreDatabase(file string, f RestoreFlags, errs io.Writer) error {
	f.skipHashCheck = true
	u := &utl{out: errs, errs: errs}
	return u.restoreFile(file, f)
}

// restoration is a restore under way.
type restoration struct {
	utl      *utl
	flags    RestoreFlags
	source   string
	dataDir  string
	member   string // <data-dir>/member.part, which becomes final
	final    string // <data-dir>/member
	walDir   string // where the log is made: within member, if it is to be within final
	cluster  *membership.Cluster
	self     *membership.Member
	log      *zap.Logger
	undoings []func() error
}

// restoreFile restores a snapshot, or leaves everything as it was.
func (u *utl) restoreFile(source string, f RestoreFlags) (err error) {
	r := &restoration{utl: u, flags: f, source: source, log: u.logger()}
	if err := r.foundCluster(); err != nil {
		return err
	}
	walDir, err := r.placeDirs()
	if err != nil {
		return err
	}
	fields := []zap.Field{zap.String("path", source), zap.String("wal-dir", walDir), zap.String("data-dir", r.dataDir)}
	r.log.Info("restoring snapshot", fields...)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undo())
		}
	}()
	if err := r.build(); err != nil {
		return err
	}
	r.log.Info("restored snapshot", fields...)
	return nil
}

// foundCluster makes the new cluster of the flags.
func (r *restoration) foundCluster() (err error) {
	f := &r.flags
	if r.cluster, err = membership.NewFromInitialCluster(membership.Config{}, f.token, f.cluster); err != nil {
		return err
	}
	if err := r.cluster.CheckSelf(f.name, strings.Split(f.peerURLs, ","), true); err != nil {
		return err
	}
	r.self = r.cluster.MemberByName(f.name)
	r.cluster.SetIDs(r.self.ID, r.cluster.ClusterID())
	return nil
}

// placeDirs decides on the directories and finds out whether they are free.
func (r *restoration) placeDirs() (walDir string, err error) {
	r.dataDir = r.flags.DataDir()
	entries, err := os.ReadDir(r.dataDir)
	if len(entries) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("data-dir %q not empty or could not be read", r.dataDir)
	}
	r.final = filepath.Join(r.dataDir, "member")
	r.member = r.final + ".part"
	if walDir = r.flags.walDir; walDir == "" {
		walDir = filepath.Join(r.final, "wal")
	}
	if _, err := os.Lstat(walDir); err == nil {
		return "", fmt.Errorf("wal-dir %q exists", walDir)
	}
	r.walDir = walDir
	if rel, err := filepath.Rel(r.final, walDir); err == nil && filepath.IsLocal(rel) {
		r.walDir = filepath.Join(r.member, rel)
	}
	return walDir, nil
}

// build makes the files and then gives them their place.
func (r *restoration) build() error {
	if err := errors.Join(r.makeDir(filepath.Join(r.member, "snap")), r.makeDir(filepath.Dir(r.walDir))); err != nil {
		return err
	}
	if err := r.copyDB(); err != nil {
		return err
	}
	if err := r.writeDB(); err != nil {
		return err
	}
	r.undoings = append(r.undoings, func() error {
		return errors.Join(os.RemoveAll(r.walDir), os.RemoveAll(filepath.Clean(r.walDir)+".tmp")) // the log's name while it is made
	})
	if err := r.writeLog(); err != nil {
		return err
	}
	if err := syncDirs(r.member); err != nil {
		return err
	}
	if err := os.Rename(r.member, r.final); err != nil {
		return err
	}
	r.undoings = append(r.undoings, func() error { return os.RemoveAll(r.final) })
	return syncDirs(r.dataDir, filepath.Dir(filepath.Clean(r.dataDir)))
}

// makeDir makes a directory and those above it that are missing.
func (r *restoration) makeDir(dir string) error {
	missing := ""
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := os.Lstat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		missing = d
	}
	if missing == "" {
		return nil
	}
	r.undoings = append(r.undoings, func() error { return os.RemoveAll(missing) })
	return os.MkdirAll(dir, 0o700)
}

// undo removes what was made.
func (r *restoration) undo() error {
	var errs []error
	for i := len(r.undoings) - 1; i >= 0; i-- {
		errs = append(errs, r.undoings[i]())
	}
	return errors.Join(errs...)
}

// syncDirs makes the entries of directories durable.
func syncDirs(dirs ...string) error {
	for _, d := range dirs {
		if err := vfs.OS.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}
