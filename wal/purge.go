package wal

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
)

// osReadWrite is os.O_RDWR.
const osReadWrite = 2

// Retention says how many files with a suffix a directory keeps. 0 keeps all.
type Retention struct {
	Dir    string
	Suffix string
	Keep   uint
}

// Purge removes the oldest files (by name) beyond what is kept, up to one that is locked, and returns their names.
func Purge(fs vfs.FS, r Retention) (deleted []string, err error) {
	if r.Keep == 0 {
		return nil, nil
	}
	all, err := fs.ReadDir(r.Dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range all {
		if strings.HasSuffix(n, r.Suffix) {
			names = append(names, n)
		}
	}
	for ; uint(len(names)) > r.Keep; names = names[1:] {
		path := filepath.Join(r.Dir, names[0])
		lock, err := fs.Lock(path)
		if errors.Is(err, vfs.ErrLocked) {
			return deleted, nil
		}
		if err != nil {
			return deleted, err
		}
		if err := errors.Join(fs.Remove(path), lock.Close()); err != nil {
			return deleted, err
		}
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
	return &Purger{fs, c, lg, what}
}

// Run purges until ctx ends.
func (p *Purger) Run(ctx context.Context) {
	t := p.clock.NewTicker(purgeInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C():
		}
		for _, r := range p.what {
			deleted, err := Purge(p.fs, r)
			for _, name := range deleted {
				p.lg.Info("purged", zap.String("path", name))
			}
			if err != nil {
				p.lg.Warn("could not purge", zap.String("dir", r.Dir), zap.Error(err))
			}
		}
	}
}
