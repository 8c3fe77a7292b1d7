package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/backup/store"
)

// maxBatch is how many entries are applied at once.
const maxBatch = 2048

// Outcome is what a restored database holds.
type Outcome struct {
	Index, Term     uint64    // of the last entry
	Revision        int64     // of the store
	CompactRevision int64     // -1: nothing was compacted
	Hash            uint32    // of the keys, as HashKV has it
	Time            time.Time // everything was applied by then
	Entries         uint64    // that were applied to the base
}

// replay is a restore under way.
type replay struct {
	st   store.Store
	plan *Plan
	path string
	lg   *zap.Logger

	state  *state
	minTTL int64
	out    Outcome
	done   bool // the moment is reached

	stop    func() uint64 // the next entry after which stopped is to be called, 0: none; may be nil
	stopped func() error
}

// Build makes the database of a plan at path, where there must be none. After an error there is none.
func Build(ctx context.Context, st store.Store, p *Plan, path string, lg *zap.Logger) (*Outcome, error) {
	return (&replay{st: st, plan: p, path: path, lg: lg}).run(ctx)
}

func (r *replay) run(ctx context.Context) (_ *Outcome, err error) {
	b := r.plan.Base
	if err := fetch(ctx, r.st, b, r.path); err != nil {
		return nil, err
	}
	defer func() {
		if r.state != nil {
			err = errors.Join(err, r.state.close())
		}
		if err != nil {
			_ = os.Remove(r.path)
		}
	}()
	r.out = Outcome{Index: b.Index, Term: b.Term, Time: b.Time}
	if err := r.check(); err != nil {
		return nil, err
	}
	r.done = r.plan.Revision > 0 && b.Revision == r.plan.Revision
	for _, s := range r.plan.Segments {
		if r.done {
			break
		}
		if err := r.segment(ctx, s); err != nil {
			return nil, err
		}
	}
	if err := r.open(r.minTTL); err != nil {
		return nil, err
	}
	return r.finish()
}

// fetch writes the database of a base to a new file.
func fetch(ctx context.Context, st store.Store, b *archive.Base, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(archive.CopyBase(ctx, st, b, f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// check finds out whether the base is what its name says.
func (r *replay) check() error {
	var got archive.Base
	want := r.plan.Base
	if err := got.Describe(r.path); err != nil {
		return fmt.Errorf("%s: %w", want.Name(), err)
	}
	if got.Index != want.Index || got.Term != want.Term || got.Revision != want.Revision {
		return fmt.Errorf("%s: %w: the database has entry %d of term %d and revision %d", want.Name(), archive.ErrDamaged, got.Index, got.Term, got.Revision)
	}
	return nil
}

// segment applies what of a segment comes next.
func (r *replay) segment(ctx context.Context, s *archive.Segment) error {
	rd, err := archive.OpenSegment(ctx, r.st, s)
	if err != nil {
		return err
	}
	defer rd.Close()
	if err := r.open(rd.Head().MinLeaseTtl); err != nil {
		return err
	}
	for !r.done {
		c, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
		if err := r.chunk(c.Entries, time.Unix(0, c.TimeUnixNano)); err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
	}
	return nil
}

// open opens the database for entries of a member that grants leases so.
func (r *replay) open(minTTL int64) (err error) {
	if r.state != nil && r.minTTL == minTTL {
		return nil
	}
	if r.state != nil {
		s := r.state
		r.state = nil
		if err := s.close(); err != nil {
			return err
		}
	}
	r.minTTL = minTTL
	r.state, err = openState(r.path, minTTL, r.lg)
	return err
}

// chunk applies entries that were applied by a time.
func (r *replay) chunk(entries []*raftpb.Entry, at time.Time) error {
	for len(entries) > 0 && entries[0].GetIndex() <= r.out.Index {
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return nil
	}
	if first := entries[0].GetIndex(); first != r.out.Index+1 {
		return fmt.Errorf("%w: entry %d follows entry %d", archive.ErrDamaged, first, r.out.Index)
	}
	if t := r.plan.Target; t.Revision == 0 && !t.Time.IsZero() && at.After(t.Time) {
		r.done = true
		return nil
	}
	r.out.Time = at
	for len(entries) > 0 && !r.done {
		n := min(len(entries), maxBatch)
		if to := r.plan.Revision; to > 0 { // every entry makes one revision at most
			n = min(n, int(min(to-r.state.store.Rev(), maxBatch)))
		}
		stop := r.nextStop()
		if stop > r.out.Index {
			n = int(min(uint64(n), stop-r.out.Index))
		}
		if err := r.state.apply(entries[:n]); err != nil {
			return err
		}
		last := entries[n-1]
		r.out.Index, r.out.Term = last.GetIndex(), last.GetTerm()
		r.out.Entries += uint64(n)
		entries = entries[n:]
		r.done = r.plan.Revision > 0 && r.state.store.Rev() >= r.plan.Revision
		if r.out.Index == stop {
			if err := r.stopped(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *replay) nextStop() uint64 {
	if r.stop == nil {
		return 0
	}
	return r.stop()
}

// finish finds out what the database holds.
func (r *replay) finish() (*Outcome, error) {
	h, rev, err := r.state.store.HashKV(0)
	if err != nil {
		return nil, err
	}
	r.out.Revision, r.out.CompactRevision, r.out.Hash = rev, h.CompactRev, h.Hash
	if to := r.plan.Revision; to > 0 && rev != to {
		return nil, fmt.Errorf("revision %d is not in the archive: it ends with revision %d at %s", to, rev, stamp(r.out.Time))
	}
	s := r.state
	r.state = nil
	return &r.out, s.close()
}
