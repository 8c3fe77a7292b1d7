package utl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc/backend"
)

func (u *utl) defrag() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Makes the database of a data directory smaller",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := u.defragment(cmd.Context(), dataDir); err != nil {
				//lint:ignore ST1005 etcdutl's text
				return fmt.Errorf("Failed to defragment etcd data[%s] (%w)", dataDir, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "Required. The data directory, of a member that does not run.")
	_ = cmd.MarkFlagRequired("data-dir")
	_ = cmd.MarkFlagDirname("data-dir")
	return cmd
}

func (u *utl) defragment(ctx context.Context, dataDir string) (err error) {
	path := dbPath(filepath.Join(dataDir, "member"))
	if err := u.readFile(path, func(*bbolt.Tx) error { return nil }); err != nil {
		return err
	}
	lg := u.logger()
	var be *backend.Backend
	if err := u.patiently(backend.ErrInUse, func() (err error) {
		be, err = backend.Open(backend.Config{Path: path, Logger: lg})
		return err
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	before := be.Size()
	if err := be.Defrag(ctx); err != nil {
		return err
	}
	lg.Info("finished defragmenting directory", zap.String("path", path), zap.Int64("current-db-size-bytes-diff", be.Size()-before),
		zap.Int64("current-db-size-bytes", be.Size()), zap.Int64("current-db-size-in-use-bytes", be.SizeInUse()))
	return nil
}

// dbPath is where a member's folder has the database.
func dbPath(member string) string { return filepath.Join(member, "snap", "db") }
