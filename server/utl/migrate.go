package utl

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/coreos/go-semver/semver"
	"github.com/spf13/cobra"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/wal"
)

// The storage versions that exist. The first one is not recorded in the file; the others differ by what is recorded only.
var (
	firstStorage    = semver.Version{Major: 3, Minor: 5}
	recordedStorage = semver.Version{Major: 3, Minor: 6}
	latestStorage   = semver.Version{Major: 3, Minor: 7}
)

func (u *utl) migrate() *cobra.Command {
	var dataDir, target string
	var force bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Makes a data directory that of another version",
		RunE: func(*cobra.Command, []string) error {
			to, err := parseTarget(target)
			if err != nil {
				return exit(ExitBadArgs, err)
			}
			return u.migrateTo(dataDir, to, force)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&dataDir, "data-dir", "", "Required. The data directory, of a member that does not run.")
	fs.StringVar(&target, "target-version", "", `Required. The version to migrate to, at least 3.5, as "X.Y".`)
	fs.BoolVar(&force, "force", false, "Record the version also if the directory cannot be migrated. Not recommended.")
	for _, name := range []string{"data-dir", "target-version"} {
		_ = cmd.MarkFlagRequired(name)
	}
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

func parseTarget(s string) (*semver.Version, error) {
	if strings.Count(s, ".") != 1 {
		return nil, fmt.Errorf(`wrong target version format, expected "X.Y", got %q`, s)
	}
	v, err := semver.NewVersion(s + ".0")
	if err != nil {
		return nil, fmt.Errorf("failed to parse target version: %w", err)
	}
	if v.LessThan(firstStorage) {
		return nil, fmt.Errorf(`target version %q not supported. Minimal "3.5"`, short(v))
	}
	return v, nil
}

// short is major and minor number.
func short(v *semver.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

func (u *utl) migrateTo(dataDir string, to *semver.Version, force bool) error {
	path, lg := dbPath(filepath.Join(dataDir, "member")), u.logger()
	var from *semver.Version
	if err := u.readFile(path, func(tx *bbolt.Tx) (err error) {
		from, err = storageVersion(tx)
		return err
	}); err != nil {
		return err
	}
	if *from == *to {
		lg.Info("storage version up-to-date", zap.String("storage-version", short(to)))
		return nil
	}
	entries, err := readEntries(filepath.Join(dataDir, "member", "wal"))
	if err != nil {
		return err
	}
	if err := mayMigrate(from, to, entries); err != nil {
		if !force {
			return err
		}
		lg.Info("normal migrate failed, trying with force", zap.Error(err))
	}
	if err := u.record(path, to, lg); err != nil {
		return err
	}
	lg.Info("updated storage version", zap.String("new-storage-version", to.String()))
	return nil
}

// storageVersion is the version of a file. That of 3.5 is known by the term that it records.
func storageVersion(tx *bbolt.Tx) (*semver.Version, error) {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return nil, errors.New("the file has no key space: it is no database of etcd's kind")
	}
	if v := meta.Get(storageVersionKey); len(v) > 0 {
		return semver.NewVersion(string(v))
	}
	if len(meta.Get([]byte("term"))) == 0 {
		return nil, errors.New("missing term information")
	}
	return &semver.Version{Major: firstStorage.Major, Minor: firstStorage.Minor}, nil
}

// mayMigrate says whether there is a way from one version to another, which the log allows.
func mayMigrate(from, to *semver.Version, entries []entry) error {
	if from.Major != to.Major {
		return errors.New("cannot create migration plan: changing major storage version is not supported")
	}
	unknown := from // the first version on the way that is not known
	if from.LessThan(*to) {
		unknown = &semver.Version{Major: from.Major, Minor: max(from.Minor, latestStorage.Minor) + 1}
	}
	if latestStorage.LessThan(*from) || latestStorage.LessThan(*to) {
		return fmt.Errorf("cannot create migration plan: version %q is not supported", unknown)
	}
	if !to.LessThan(*from) {
		return nil
	}
	needs, err := needed(entries)
	if err != nil {
		return err
	}
	if needs != nil && to.LessThan(*needs) {
		return fmt.Errorf("cannot downgrade storage, WAL contains newer entries, as the target version (%s) is lower than the version (%s) detected from WAL logs", to, needs)
	}
	return nil
}

// readEntries reads the log from the last snapshot on, without changing anything.
func readEntries(dir string) ([]entry, error) {
	markers, err := wal.SnapshotMarkers(vfs.OS, dir)
	if err != nil {
		return nil, fmt.Errorf("failed to get the lastest snapshot: %w", err)
	}
	if len(markers) == 0 {
		markers = append(markers, nil)
	}
	contents, err := wal.ReadOnly(vfs.OS, dir, markers[len(markers)-1])
	if err != nil {
		return nil, fmt.Errorf("failed to read wal: %w", err)
	}
	return contents.Entries, nil
}

// record writes the version into the file.
func (u *utl) record(path string, v *semver.Version, lg *zap.Logger) (err error) {
	var be *backend.Backend
	if err := u.patiently(backend.ErrInUse, func() (err error) {
		be, err = backend.Open(backend.Config{Path: path, Logger: lg})
		return err
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	if v.LessThan(recordedStorage) {
		be.Delete(backend.Meta, storageVersionKey)
	} else {
		be.Put(backend.Meta, storageVersionKey, []byte(v.String()))
	}
	be.Publish(nil)
	return be.Commit()
}
