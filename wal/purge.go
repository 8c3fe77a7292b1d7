package wal

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
)

// Retention says how many files with a suffix a directory keeps. 0 keeps all.
type Retention struct {
	Dir    string
	Suffix string
	Keep   uint
}

// Purge removes the oldest files (by name) with a suffix beyond the number that is kept (0: all are), up to one that is
// locked, and returns their paths.
func Purge(fsys vfs.FS, dir, suffix string, keep uint, lg *zap.Logger) (deleted []string, err error) {
	if keep == 0 {
		return nil, nil
	}
	if lg == nil {
		lg = zap.NewNop()
	}
	all, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range all {
		if strings.HasSuffix(n, suffix) {
			names = append(names, n)
		}
	}
	for ; uint(len(names)) > keep; names = names[1:] {
		path := filepath.Join(dir, names[0])
		lock, err := fsys.Lock(path)
		switch {
		case errors.Is(err, vfs.ErrLocked):
			return deleted, nil
		case errors.Is(err, fs.ErrNotExist):
			continue // somebody else was faster
		case err != nil:
			return deleted, err
		}
		if err := errors.Join(fsys.Remove(path), lock.Close()); err != nil {
			return deleted, err
		}
		lg.Info("purged", zap.String("path", path))
		deleted = append(deleted, path)
	}
	return deleted, nil
}

// Purger purges now and then.
type Purger struct {
	fs    vfs.FS
	clock clock.Clock
	lg    *zap.Logger
	what  []Retention
}

const purgeInterval = 30 * time.Second

// NewPurger makes a Purger.
func NewPurger(fs vfs.FS, c clock.Clock, lg *zap.Logger, what []Retention) *Purger {
	if lg == nil {
		lg = zap.NewNop()
	}
	return &Purger{fs, c, lg, what}
}

// Run purges at once and then every 30 seconds, until ctx ends.
func (p *Purger) Run(ctx context.Context) {
	t := p.clock.NewTicker(purgeInterval)
	defer t.Stop()
	for {
		for _, r := range p.what {
			if _, err := Purge(p.fs, r.Dir, r.Suffix, r.Keep, p.lg); err != nil {
				p.lg.Warn("could not purge", zap.String("dir", r.Dir), zap.String("suffix", r.Suffix), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C():
		}
	}
}
