package mvcc

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/eventlog"
	"github.com/keelson-io/keelson/mvcc/index"
)

// Errors of this package. ErrCompacted is also what the event log's readers get.
var (
	ErrCompacted = eventlog.ErrCompacted
	ErrFutureRev = errors.New("mvcc: required revision is a future revision")
	ErrClosed    = backend.ErrClosed
)

// Config says how a store works. Zero values mean the default named beside them.
type Config struct {
	CompactionBatchLimit int           // 1000: revisions removed in one step
	CompactionSleep      time.Duration // 10ms: rest after such a step
	EventLogBytes        int64         // 32 MiB: recent events in memory
	HashCompactions      bool          // every compaction leaves a hash, see CompactHashes; false: those that are asked for
	Clock                clock.Clock
	Logger               *zap.Logger
	Registerer           prometheus.Registerer
}

// Attach learns of a key that has a lease.
type Attach func(key []byte, lease int64)

// published is the payload of the backend's views.
type published struct {
	root       index.Root
	rev        int64 // current main revision
	compactRev int64 // reads below it fail; -1: nothing was ever compacted
}

// Store is described in the package comment.
type Store struct {
	cfg     Config
	log     *eventlog.Log
	metrics *metrics
	pins    pins
	be      atomic.Pointer[backend.Backend]

	mu   sync.Mutex // held from Begin to Publish
	held bool       // by the applier, which alone reads it
	lost bool       // a batch was abandoned: nothing is published any more
	tree *index.Tree
	now  published // the writer's state; root is unused

	compactions *compactQueue
	hashes      hashes
	sums        sums
}

// Open reads the index from the file, and takes up a compaction that was under way. attach learns of the leases of keys.
func Open(be *backend.Backend, cfg Config, attach Attach) (*Store, error) {
	if cfg.CompactionBatchLimit == 0 {
		cfg.CompactionBatchLimit = 1000
	}
	if cfg.CompactionSleep == 0 {
		cfg.CompactionSleep = 10 * time.Millisecond
	}
	if cfg.EventLogBytes == 0 {
		cfg.EventLogBytes = 32 << 20
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	s := &Store{cfg: cfg, log: eventlog.New(cfg.EventLogBytes)}
	s.metrics = newMetrics(s, cfg.Registerer)
	if err := s.load(be, attach); err != nil {
		return nil, err
	}
	return s, nil
}

// Restore replaces the whole state by that of another backend. Read transactions that are open stay valid; the caller
// closes the old backend.
func (s *Store) Restore(be *backend.Backend, attach Attach) error {
	s.stopCompactor()
	s.hashes.clear() // the new state did not make them
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load(be, attach)
}

// Close stops the background work. The backend stays open.
func (s *Store) Close() { s.stopCompactor() }

// Log is the log of recent events.
func (s *Store) Log() *eventlog.Log { return s.log }

// Rev is the current published revision.
func (s *Store) Rev() int64 { return s.log.Rev() }

// CompactRev is the revision below which reads fail, -1 if there is none.
func (s *Store) CompactRev() int64 {
	t := s.Read()
	defer t.Close()
	return t.CompactRev()
}

// Begin opens a batch, if none is open.
func (s *Store) Begin() {
	if !s.held {
		s.mu.Lock()
		s.held = true
	}
}

// Publish ends the batch: what was written becomes visible to readers, and its events to watchers.
func (s *Store) Publish() {
	s.Begin()
	s.publish()
	s.held = false
	s.mu.Unlock()
}

// Abandon ends a batch that failed half way. Nothing of it becomes visible or reaches the disk, nor does anything later:
// the member must stop.
func (s *Store) Abandon() {
	s.Begin()
	s.held, s.lost = false, true
	s.mu.Unlock()
}

// publish makes the writer's state visible; the caller holds mu.
func (s *Store) publish() {
	if s.lost {
		return
	}
	p := s.now
	p.root = s.tree.Freeze()
	s.be.Load().Publish(&p)
	s.log.Publish(p.rev)
}

// view returns the published state.
func (s *Store) view() (backend.View, *published, error) {
	for {
		be := s.be.Load()
		v, ok := be.View()
		if ok {
			return v, v.Payload().(*published), nil
		}
		if s.be.Load() == be {
			return v, nil, ErrClosed
		}
	}
}

func corrupt(be *backend.Backend, r backend.Rev) error {
	return fmt.Errorf("mvcc: revision %d/%d is in the index but not in %s", r.Main, r.Sub, be.Path())
}
