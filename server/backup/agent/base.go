package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/backup/archive"
)

// awaitTimeout is how long, beside the age of a segment, the follower may take to archive the last entry of a base.
const awaitTimeout = 2 * time.Minute

// takeBases takes a base whenever the chain has none, and at every interval.
func (a *agent) takeBases(ctx context.Context) error {
	for failures := 0; ; {
		chain, first, wait, changed := a.shared.due(time.Now(), a.cfg.BaseInterval)
		if chain == "" {
			if err := a.awaitDue(ctx, wait, changed); err != nil {
				return nil
			}
			continue
		}
		err := a.takeBase(ctx, chain, first)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failures = 0
			a.prune(ctx)
			continue
		case isFatal(err):
			return err
		}
		failures++
		a.metrics.failures.WithLabelValues("base").Inc()
		a.lg.Error("no base could be taken; trying again", zap.String("chain", chain), zap.Error(err))
		if sleep(ctx, backoff(failures)) != nil {
			return nil
		}
	}
}

func (a *agent) awaitDue(ctx context.Context, wait time.Duration, changed <-chan struct{}) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// takeBase takes a base for a chain, which has the entries from first on.
func (a *agent) takeBase(ctx context.Context, chain string, first uint64) error {
	var errs []error
	for _, c := range a.link.conns {
		err := a.baseFrom(ctx, c, chain, first)
		if err == nil || ctx.Err() != nil || isFatal(err) {
			return err
		}
		c.failed(err)
		errs = append(errs, describe(c.endpoint, err))
	}
	return errors.Join(errs...)
}

func (a *agent) baseFrom(ctx context.Context, c *conn, chain string, first uint64) error {
	spool, err := os.CreateTemp(a.cfg.SpoolDir, "keelson-backup-*.db")
	if err != nil {
		return err
	}
	defer func() { _, _ = spool.Close(), os.Remove(spool.Name()) }()
	b := &archive.Base{Chain: chain}
	if err := a.download(ctx, c, spool, b); err != nil {
		return err
	}
	if err := b.Describe(spool.Name()); err != nil {
		return err
	}
	if b.Index+1 < first {
		return fmt.Errorf("the member has applied the log up to entry %d only; the chain begins with entry %d", b.Index, first)
	}
	wctx, cancel := context.WithTimeout(ctx, awaitTimeout+a.cfg.SegmentAge)
	defer cancel()
	same, at, err := a.shared.await(wctx, chain, b.Index, b.Term)
	switch {
	case err != nil:
		return fmt.Errorf("the log did not come to entry %d, the last one of the base: %w", b.Index, err)
	case !same:
		return fmt.Errorf("the base with entry %d of term %d is not of this chain", b.Index, b.Term)
	}
	if at == 0 {
		at = b.Time.UnixNano()
	}
	b.Time = archive.Milli(at) // by the clock of the members, as everything else in the archive, if it is known
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := archive.Check(ctx, a.cfg.Store, a.self); errors.Is(err, archive.ErrTakenOver) {
		return fatal{err}
	}
	if err := archive.PutBase(ctx, a.cfg.Store, b, spool); err != nil {
		return err
	}
	a.shared.took(b.Time)
	a.metrics.wrote("base", b.Size)
	a.lg.Info("archived a base", zap.String("chain", chain), zap.Uint64("index", b.Index), zap.Int64("revision", b.Revision), zap.Int64("bytes", b.Size))
	return nil
}

// download receives the database of a member, and checks it against the checksum that comes behind it.
func (a *agent) download(ctx context.Context, c *conn, w io.Writer, b *archive.Base) error {
	asUser, err := a.link.as(ctx, c)
	if err != nil {
		return err
	}
	stream, err := pb.NewMaintenanceClient(c).Snapshot(asUser, &pb.SnapshotRequest{})
	if err != nil {
		return err
	}
	h := sha256.New()
	to := io.MultiWriter(w, h)
	for complete := false; ; {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if complete { // what follows the database is its checksum
			if h.Sum(b.Sum[:0]); !bytes.Equal(r.Blob, b.Sum[:]) {
				return errors.New("the database did not arrive as it was sent: its checksum is wrong")
			}
			return nil
		}
		if b.Time.IsZero() { // the database is as it was before that
			b.Time = time.Now()
		}
		if _, err := to.Write(r.Blob); err != nil {
			return err
		}
		complete = r.RemainingBytes == 0
	}
}

// prune deletes what the policy lets go.
func (a *agent) prune(ctx context.Context) {
	names, err := archive.Prune(ctx, a.cfg.Store, a.cfg.Keep, time.Now())
	a.metrics.pruned.Add(float64(len(names)))
	if err != nil {
		a.metrics.failures.WithLabelValues("prune").Inc()
		a.lg.Error("what is not to be kept could not be deleted", zap.Error(err))
	}
	if len(names) > 0 {
		a.lg.Info("deleted what is not to be kept", zap.Int("objects", len(names)))
	}
}
