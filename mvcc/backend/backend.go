package backend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// Errors of this package.
var (
	ErrInUse   = errors.New("backend: the file is in use by another process")
	ErrClosed  = errors.New("backend: closed")
	ErrRetired = errors.New("backend: another file takes the place of this one")
)

// Config says how to open a backend. Zero values mean the default named beside them.
type Config struct {
	Path             string
	BatchInterval    time.Duration // 100ms: how long a published record may stay in memory only
	BatchLimit       int           // 10000: or this many records
	FreelistType     string        // "map" (or "array")
	NoSync           bool          // a power cut may break the file
	MaxBufferBytes   int64         // 256 MiB: Publish waits while more is not yet flushed
	InitialMmapBytes int64         // 64 GiB, or eight times the file or the quota if that is more
	QuotaHint        int64         // the quota of the file's size, in bytes
	MLock            bool
	OnError          func(error) // errors of flushes in the background, which are tried again
	Clock            clock.Clock
	Logger           *zap.Logger
	Registerer       prometheus.Registerer
}

func (c *Config) fill() {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def((*int64)(&c.BatchInterval), int64(100*time.Millisecond))
	def(&c.MaxBufferBytes, 256<<20)
	if c.BatchLimit == 0 {
		c.BatchLimit = 10000
	}
	if c.FreelistType == "" {
		c.FreelistType = string(bbolt.FreelistMapType)
	}
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.OnError == nil {
		c.OnError = func(error) {}
	}
}

// batch is what goes into the file together, beside the records of the window.
type batch struct {
	rows        rows
	deletes     []deletion
	index, term uint64 // consistent index and term; 0: unchanged
}

type deletion struct {
	rev       Rev
	tombstone bool
}

func (p *batch) empty() bool { return p.index == 0 && len(p.deletes) == 0 && p.rows.empty() }

// add puts a later batch behind this one.
func (p *batch) add(later *batch) {
	p.rows.add(&later.rows)
	p.deletes = append(p.deletes, later.deletes...)
	if later.index != 0 {
		p.index, p.term = later.index, later.term
	}
}

// Backend is described in the package comment.
type Backend struct {
	cfg     Config
	metrics *metrics
	current atomic.Pointer[state] // nil when closed

	mu          sync.Mutex
	drained     *sync.Cond // the window got shorter
	window      window     // with what is not yet published
	unpublished batch
	published   batch
	flushing    batch // under way, or failed and to be tried again
	bytes       int64 // of the window

	fileMu  sync.Mutex // one flush, commit or rewriting at a time
	db      *bbolt.DB  // changed under fileMu
	mapped  int64      // bytes of its memory map
	journal *journal   // of a rewriting under way
	retired bool       // the path belongs to another file

	kick    chan struct{} // there is something to flush
	hurry   chan struct{} // do not wait for the interval
	closing chan struct{}
	stopped chan struct{}
}

// Open opens or creates the file. ErrInUse: another process has it open.
func Open(cfg Config) (*Backend, error) {
	cfg.fill()
	b := &Backend{
		cfg:     cfg,
		kick:    make(chan struct{}, 1),
		hurry:   make(chan struct{}, 1),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	b.drained = sync.NewCond(&b.mu)
	var err error
	if b.db, b.mapped, err = b.openFile(cfg.Path, fileSize(cfg.Path)); err != nil {
		return nil, err
	}
	if err := createBuckets(b.db); err != nil {
		return nil, errors.Join(fmt.Errorf("backend: %w", err), b.db.Close())
	}
	b.metrics = newMetrics(b, cfg.Registerer)
	tx, err := b.beginShared(b.db)
	if err != nil {
		return nil, errors.Join(err, b.db.Close())
	}
	b.current.Store(&state{tx: tx})
	b.measure()
	go b.flushLoop()
	return b, nil
}

// Path is the name of the file.
func (b *Backend) Path() string { return b.cfg.Path }

func createBuckets(db *bbolt.DB) error {
	missing := false
	if err := db.View(func(tx *bbolt.Tx) error {
		for bk := range bucketCount {
			missing = missing || tx.Bucket([]byte(bk.String())) == nil
		}
		return nil
	}); err != nil || !missing {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for bk := range bucketCount {
			if _, err := tx.CreateBucketIfNotExists([]byte(bk.String())); err != nil {
				return err
			}
		}
		return nil
	})
}

const minMmap = 64 << 30

// openFile opens a file that is expected to hold some bytes, and returns the size of its memory map.
func (b *Backend) openFile(path string, expect int64) (*bbolt.DB, int64, error) {
	size := max(b.cfg.InitialMmapBytes, 8*expect)
	if b.cfg.InitialMmapBytes == 0 {
		size = max(minMmap, 8*b.cfg.QuotaHint, 8*expect)
	}
	ahead := startReadAll(path)
	defer ahead.end()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         time.Millisecond, // fail at once if it is locked
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistType(b.cfg.FreelistType),
		InitialMmapSize: int(size),
		NoSync:          b.cfg.NoSync,
		NoGrowSync:      b.cfg.NoSync,
		Mlock:           b.cfg.MLock,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, 0, fmt.Errorf("%s: %w", path, ErrInUse)
	case err != nil:
		return nil, 0, fmt.Errorf("backend: opening %s: %w", path, err)
	}
	return db, size, nil
}

// AppendRev appends a revision, later than all before it. kv belongs to the backend from here on.
func (b *Backend) AppendRev(r Rev, tombstone bool, kv []byte) {
	b.mu.Lock()
	b.window.append(record{r, tombstone, kv})
	b.bytes += int64(len(kv)) + recordOverhead
	b.mu.Unlock()
}

// DeleteRevs removes revisions from the file. Views may find them until they are flushed.
func (b *Backend) DeleteRevs(revs []Rev, tombstone func(i int) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, r := range revs {
		b.unpublished.deletes = append(b.unpublished.deletes, deletion{r, tombstone(i)})
	}
}

// SetConsistentIndex records the log entry up to which everything is contained in what the next Publish makes visible.
func (b *Backend) SetConsistentIndex(index, term uint64) {
	b.mu.Lock()
	b.unpublished.index, b.unpublished.term = index, term
	b.mu.Unlock()
}

// ConsistentIndex returns what SetConsistentIndex was last given, also before a restart.
func (b *Backend) ConsistentIndex() (index, term uint64) {
	b.mu.Lock()
	for _, p := range [...]*batch{&b.unpublished, &b.published, &b.flushing} {
		if p.index != 0 {
			defer b.mu.Unlock()
			return p.index, p.term
		}
	}
	b.mu.Unlock()
	return number(b.Get(Meta, consistentIndexKey)), number(b.Get(Meta, termKey))
}

func number(row []byte) uint64 {
	if len(row) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(row)
}

// Publish makes everything written so far visible, together with payload. It waits while too much is not yet flushed.
func (b *Backend) Publish(payload any) {
	b.mu.Lock()
	cur := b.current.Load()
	if cur == nil {
		b.mu.Unlock()
		return
	}
	b.published.add(&b.unpublished)
	b.unpublished = batch{}
	b.current.Store(&state{window: b.window, tx: cur.tx, payload: payload})
	full := b.window.len() >= b.cfg.BatchLimit || len(b.published.deletes) >= b.cfg.BatchLimit
	dirty := b.window.len() > 0 || len(b.published.deletes) > 0 || !b.published.rows.empty()
	b.mu.Unlock()
	if dirty {
		signal(b.kick)
	}
	if full {
		signal(b.hurry)
		b.throttle()
	}
}

// throttle waits until the window is within its bound again.
func (b *Backend) throttle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.bytes > b.cfg.MaxBufferBytes && b.current.Load() != nil {
		b.drained.Wait()
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Size is the size of the file in bytes.
func (b *Backend) Size() int64 { return b.metrics.size.Load() }

// SizeInUse is the size without free pages, and with what is not yet flushed.
func (b *Backend) SizeInUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.metrics.inUse.Load() + b.bytes
}

// Retire gives the path up to another file, which is renamed to it afterwards: from now on the file is not rewritten any
// more, since the copy would take the place of the other file. Everything else goes on until Close.
func (b *Backend) Retire() {
	b.fileMu.Lock()
	defer b.fileMu.Unlock()
	b.retired = true
}

// Close flushes what was published and closes the file. It waits for the views that are held.
func (b *Backend) Close() error {
	if b.current.Load() == nil {
		return nil
	}
	err := b.Commit()
	close(b.closing)
	<-b.stopped
	b.fileMu.Lock()
	defer b.fileMu.Unlock()
	b.mu.Lock()
	last := b.current.Swap(nil)
	b.drained.Broadcast()
	b.mu.Unlock()
	last.tx.release()
	if err == nil {
		err = saveFreelist(b.db)
	}
	return errors.Join(err, b.db.Close())
}

// saveFreelist writes the list of free pages, which commits leave out for speed: the next start need not look for them.
func saveFreelist(db *bbolt.DB) error {
	db.NoFreelistSync = false
	return db.Update(func(*bbolt.Tx) error { return nil })
}
