package mvcc

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/index"
)

// loadBatch is how many revisions go from the reader of the file to the builder of the index at once.
const loadBatch = 4096

// stored is a revision as the file holds it.
type stored struct {
	rev       backend.Rev
	tombstone bool
	size      int // bytes
	fields    Fields
}

// load makes the state of a backend the store's, and starts its compactor. The caller owns the store.
func (s *Store) load(be *backend.Backend, attach Attach) error {
	view, ok := be.View()
	if !ok {
		return ErrClosed
	}
	defer view.Release()
	finished, scheduled := metaRev(be, finishedCompactKey), metaRev(be, scheduledCompactKey)
	l := loader{tree: index.NewTree(), leases: map[string]int64{}, last: 1, base: sumBase{compactRev: finished}}
	start := s.cfg.Clock.Now()
	if err := l.run(view); err != nil {
		return fmt.Errorf("mvcc: reading %s: %w", be.Path(), err)
	}
	// The last revisions may be deletions that a compaction removed.
	s.now = published{rev: max(l.last, finished, scheduled), compactRev: max(finished, scheduled)}
	s.tree = l.tree
	if scheduled > finished {
		s.sums.reset(s.now.rev, l.sum, nil)
	} else {
		s.sums.reset(s.now.rev, l.sum, &l.base)
	}
	keys := l.tree.Root().Live()
	s.pins.drop(1 << 62)
	s.be.Store(be)
	s.log.Reset(s.now.rev)
	s.publish()
	for key, lease := range l.leases {
		attach([]byte(key), lease)
	}
	s.startCompactor(be)
	if scheduled > finished {
		s.cfg.Logger.Info("resuming compaction", zap.Int64("compact-revision", scheduled))
		s.compactions.put(compaction{rev: scheduled, done: make(chan struct{})})
	}
	s.cfg.Logger.Info("restored the store", zap.Int64("current-rev", s.now.rev), zap.Int64("compact-rev", s.now.compactRev),
		zap.Int64("keys", keys), zap.Duration("took", s.cfg.Clock.Now().Sub(start)))
	return nil
}

// loader builds the index from revisions in the order of the file.
type loader struct {
	tree   *index.Tree
	leases map[string]int64 // of live keys
	last   int64
	sum    uint64  // of all records
	base   sumBase // of the last compaction that was finished
}

// run reads the file in one goroutine and builds in another.
func (l *loader) run(view backend.View) error {
	batches := make(chan []stored, 4)
	built := make(chan struct{})
	go func() {
		defer close(built)
		for b := range batches {
			for i := range b {
				l.add(&b[i])
			}
		}
	}()
	batch := make([]stored, 0, loadBatch)
	err := view.ForEachRev(backend.Rev{}, func(r backend.Rev, tombstone bool, kv []byte) error {
		f, err := KV(kv).parse()
		if err != nil {
			return fmt.Errorf("revision %d/%d: %w", r.Main, r.Sub, err)
		}
		h := recordSum(r, tombstone, kv)
		if l.sum += h; tombstone && r.Main == l.base.compactRev {
			l.base.without += h
		}
		if batch = append(batch, stored{r, tombstone, len(kv), f}); len(batch) == loadBatch {
			batches <- batch
			batch = make([]stored, 0, loadBatch)
		}
		return nil
	})
	batches <- batch
	close(batches)
	<-built
	return err
}

func (l *loader) add(st *stored) {
	l.last = max(l.last, st.rev.Main)
	e := l.tree.Root().Get(str(st.fields.Key))
	switch {
	case e == nil && st.tombstone:
		e = index.New(string(st.fields.Key), index.NewStamp(st.rev, true), 0, 0)
	case e == nil:
		e = index.New(string(st.fields.Key), index.NewStamp(st.rev, false), st.fields.CreateRev, st.fields.Version)
	case st.tombstone:
		e = e.Delete(st.rev)
	default:
		e = e.Put(st.rev)
	}
	if !st.tombstone {
		e.Size = uint32(st.size)
	}
	l.tree.Set(e)
	if st.fields.Lease != 0 && !st.tombstone {
		l.leases[e.Key] = st.fields.Lease
	} else if len(l.leases) > 0 {
		delete(l.leases, e.Key)
	}
}
