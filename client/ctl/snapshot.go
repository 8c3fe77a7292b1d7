package ctl

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

func (c *ctl) snapshot() *cobra.Command {
	save := &cobra.Command{
		Use:   "save <filename>",
		Short: "Writes a copy of an endpoint's backend to a file",
		Long: `Writes a copy of an endpoint's backend to a file, for a backup or to restore a cluster from. There must be one
endpoint. Takes as long as it takes, unless --command-timeout is given.`,
		Example: `  etcdctl snapshot save --endpoints=127.0.0.1:2379 /backup/etcd-snapshot.db
  etcdctl snapshot save /backup/$(date +%Y%m%d_%H%M%S).db`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return badArgs("snapshot save expects one argument <filename>")
			}
			s, err := c.open(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
			if cmd.Flags().Changed("command-timeout") {
				ctx, cancel = s.short(ctx)
			}
			defer cancel()
			version, err := s.saveSnapshot(ctx, args[0])
			if err != nil {
				return exit(ExitInterrupted, c.plain(err))
			}
			fmt.Fprintf(c.out, "Snapshot saved at %s\n", args[0])
			if version != "" {
				fmt.Fprintf(c.out, "Server version %s\n", version)
			}
			return nil
		},
	}
	return parent("snapshot <subcommand>", "Saves backups", save)
}

// saveSnapshot writes a snapshot next to path and, once it is complete and on the disk, gives it that name.
func (s *session) saveSnapshot(ctx context.Context, path string) (version string, err error) {
	if len(s.cfg.Endpoints) != 1 {
		return "", fmt.Errorf("snapshot must be requested to one selected node, not multiple %v", s.cfg.Endpoints)
	}
	cl, err := s.dial()
	if err != nil {
		return "", err
	}
	defer cl.Close()
	part := path + ".part"
	defer os.Remove(part) // gone already if all went well
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("could not open %s (%w)", part, err)
	}
	defer f.Close()
	log := s.c.log.With(zap.String("path", path), zap.String("endpoint", s.cfg.Endpoints[0]))
	log.Info("fetching snapshot")
	start := time.Now()
	snap, err := cl.Snapshot(ctx)
	if err != nil {
		return "", err
	}
	defer snap.Close()
	n, err := io.Copy(f, snap)
	if err != nil {
		return "", fmt.Errorf("could not write snapshot: %w", err)
	}
	if n%512 != sha256.Size { // pages, and the checksum behind them
		return "", fmt.Errorf("sha256 checksum not found [bytes: %d]", n)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("could not fsync snapshot: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return "", fmt.Errorf("could not rename %s to %s (%w)", part, path, err)
	}
	log.Info("saved snapshot", zap.String("size", humanize.Bytes(uint64(n))), zap.Duration("took", time.Since(start)),
		zap.String("etcd-version", snap.Version))
	return snap.Version, nil
}
