package mvcc

import (
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/index"
)

// Rows of the meta bucket.
var (
	scheduledCompactKey = []byte("scheduledCompactRev")
	finishedCompactKey  = []byte("finishedCompactRev")
)

// maxVisited bounds how many entries one step of a compaction looks at.
const maxVisited = 4096

type compaction struct {
	rev   int64 // 0: nothing to remove, it only waits its turn
	prev  int64 // the compact revision before it
	whole bool  // everything from prev on is still there, so that it can be hashed
	done  chan struct{}
}

// Compact makes reads below a revision fail, from the next Publish on, and removes in the background what nobody can read
// any more. done is closed when it is removed from the file, and what was to be compacted before. After ErrCompacted (the
// revision is compacted already) done is closed when that one is finished. ErrFutureRev: there is no such revision yet.
// It belongs into a batch, as Write does.
func (s *Store) Compact(rev int64) (done <-chan struct{}, err error) {
	s.Begin()
	c := compaction{rev: rev, prev: s.now.compactRev, whole: true, done: make(chan struct{})}
	switch {
	case rev <= s.now.compactRev:
		c.rev, err = 0, ErrCompacted
	case rev > s.now.rev:
		return nil, ErrFutureRev
	default:
		s.now.compactRev = rev
		s.be.Load().Put(backend.Meta, scheduledCompactKey, backend.AppendKey(nil, backend.Rev{Main: rev}, false))
	}
	s.compactions.put(c)
	return c.done, err
}

// compactQueue hands compactions to the compactor of one backend.
type compactQueue struct {
	mu      sync.Mutex
	waiting []compaction
	added   chan struct{}
	stop    chan struct{}
	ended   chan struct{}
}

func (s *Store) startCompactor(be *backend.Backend) {
	s.compactions = &compactQueue{added: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	go s.compactor(be, s.compactions)
}

// stopCompactor ends the compactor. Those who wait for a compaction are let go.
func (s *Store) stopCompactor() {
	q := s.compactions
	if q == nil {
		return
	}
	s.compactions = nil
	close(q.stop)
	<-q.ended
	for _, c := range q.waiting {
		close(c.done)
	}
}

func (q *compactQueue) put(c compaction) {
	q.mu.Lock()
	q.waiting = append(q.waiting, c)
	q.mu.Unlock()
	select {
	case q.added <- struct{}{}:
	default:
	}
}

// first waits for a compaction and returns it; false when it was stopped.
func (q *compactQueue) first() (compaction, bool) {
	for {
		q.mu.Lock()
		if len(q.waiting) > 0 && !q.stopped() {
			defer q.mu.Unlock()
			return q.waiting[0], true
		}
		q.mu.Unlock()
		select {
		case <-q.added:
		case <-q.stop:
			return compaction{}, false
		}
	}
}

// finish lets those go who wait for the first compaction.
func (q *compactQueue) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.waiting[0].done)
	q.waiting = q.waiting[1:]
}

func (q *compactQueue) stopped() bool {
	select {
	case <-q.stop:
		return true
	default:
		return false
	}
}

// compactor carries out compactions one after another.
func (s *Store) compactor(be *backend.Backend, q *compactQueue) {
	defer close(q.ended)
	for {
		c, ok := q.first()
		if !ok || c.rev > 0 && !s.compactNow(be, q, c) {
			return
		}
		if err := be.Commit(); err != nil {
			s.cfg.Logger.Warn("compaction is not yet committed", zap.Error(err))
		}
		q.finish()
	}
}

// rest waits; false when the compactor is to stop.
func (q *compactQueue) rest(c clock.Clock, d time.Duration) bool {
	timer := c.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return !q.stopped()
	case <-q.stop:
		return false
	}
}

// compactNow removes everything that revisions from the compaction's on do not need, and keeps the hash of what was there. It
// returns false if it was stopped.
func (s *Store) compactNow(be *backend.Backend, q *compactQueue, c compaction) bool {
	start := s.cfg.Clock.Now()
	var hash KVHash
	hashed := false
	if c.whole && s.hashes.want(s.cfg.HashCompactions) {
		if hash, hashed = s.hashCompaction(q, c); q.stopped() {
			return false
		}
	}
	s.pins.drop(c.rev)
	removed, sum, ok := s.remove(be, q, c.rev)
	if !ok {
		return false
	}
	s.sums.compacted(c.rev, sum, s.deletionsAt(be, c.rev))
	if hashed {
		s.hashes.put(hash)
	}
	end := s.cfg.Clock.Now()
	s.metrics.compacted(end, end.Sub(start))
	s.cfg.Logger.Info("finished scheduled compaction", zap.Int64("compact-revision", c.rev), zap.Int("revisions-removed", removed),
		zap.Uint32("hash", hash.Hash), zap.Duration("took", end.Sub(start)))
	return true
}

// remove removes, in steps with rests, what a compaction lets go; false if it was stopped. sum is that of what was removed.
func (s *Store) remove(be *backend.Backend, q *compactQueue, rev int64) (removed int, sum uint64, ok bool) {
	s.mu.Lock() // the batch with the compaction has been published when this is got
	lost := s.lost
	s.mu.Unlock()
	if lost {
		return 0, 0, false
	}
	var next string
	rest := 0
	for more := true; more; {
		view, open := be.View()
		if !open {
			return removed, sum, false
		}
		var gone []index.Stamp
		next, gone, more = s.compactStep(be, next, rev)
		sum += sumOf(view, gone)
		view.Release()
		removed, rest = removed+len(gone), rest+len(gone)
		if rest < s.cfg.CompactionBatchLimit {
			runtime.Gosched()
			if q.stopped() {
				return removed, sum, false
			}
			continue
		}
		rest = 0
		if !q.rest(s.cfg.Clock, s.cfg.CompactionSleep) {
			return removed, sum, false
		}
	}
	return removed, sum, true
}

// compactStep compacts some entries from a key on. It returns the key to go on with, and what is being removed from the file.
func (s *Store) compactStep(be *backend.Backend, from string, rev int64) (next string, gone []index.Stamp, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := s.cfg.Clock.Now()
	var dropped []index.Stamp
	type change struct{ old, new *index.Entry }
	var changes []change
	visited, last := 0, ""
	s.tree.Root().AscendStale(from, func(e *index.Entry) bool {
		if visited++; visited > maxVisited || len(dropped) >= s.cfg.CompactionBatchLimit {
			next, more = e.Key, true
			return false
		}
		before := len(dropped)
		last = e.Key
		var c *index.Entry
		if c, dropped = e.Compact(rev, dropped); len(dropped) > before {
			changes = append(changes, change{e, c})
		}
		return true
	})
	if !more && len(dropped) >= s.cfg.CompactionBatchLimit {
		next, more = last+"\x00", true // the rest comes before the end, so that this can be interrupted, too
	}
	for _, c := range changes {
		if c.new == nil {
			s.tree.Remove(c.old.Key)
		} else {
			s.tree.Set(c.new)
		}
	}
	indexed := s.cfg.Clock.Now()
	revs := make([]backend.Rev, len(dropped))
	for i, d := range dropped {
		revs[i] = d.Rev()
	}
	be.DeleteRevs(revs, func(i int) bool { return dropped[i].Tombstone() })
	if !more {
		be.Put(backend.Meta, finishedCompactKey, backend.AppendKey(nil, backend.Rev{Main: rev}, false))
	}
	if len(dropped) > 0 || !more {
		s.publish()
	}
	s.metrics.step(len(dropped), indexed.Sub(start), s.cfg.Clock.Now().Sub(start))
	return next, dropped, more
}

// sumOf is the sum of records that a view still holds.
func sumOf(v backend.View, records []index.Stamp) (sum uint64) {
	get := v.Getter()
	for _, r := range records {
		sum += recordSum(r.Rev(), r.Tombstone(), get.Get(r.Rev(), r.Tombstone()))
	}
	return sum
}

// deletionsAt is the sum of the deletions at one main revision.
func (s *Store) deletionsAt(be *backend.Backend, rev int64) (sum uint64) {
	view, ok := be.View()
	if !ok {
		return 0
	}
	defer view.Release()
	_ = view.ForEachRev(backend.Rev{Main: rev}, func(r backend.Rev, tombstone bool, kv []byte) error {
		if r.Main > rev {
			return errEnough
		}
		if tombstone {
			sum += recordSum(r, true, kv)
		}
		return nil
	})
	return sum
}

func metaRev(be *backend.Backend, key []byte) int64 {
	r, _, err := backend.ParseKey(be.Get(backend.Meta, key))
	if err != nil {
		return -1
	}
	return r.Main
}
