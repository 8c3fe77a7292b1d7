package watch

import (
	"errors"
	"sync"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc/eventlog"
)

// The errors have etcd's texts: they are reasons that clients see.
var (
	ErrEmptyRange  = errors.New("mvcc: watcher range is empty")
	ErrDuplicateID = errors.New("mvcc: duplicate watch ID provided on the WatchStream")
	ErrNotFound    = errors.New("mvcc: watcher not found")
	ErrClosed      = errors.New("watch: closed")
)

// History is the store as watchers that are behind read it; *mvcc.Store is one.
type History interface {
	CompactRev() int64
	// Events returns events of keys in [key, end) at the revisions from..to, in order and by whole revisions, until about
	// maxBytes are together, and the revision to go on with. eventlog.ErrCompacted.
	Events(key, end []byte, from, to int64, maxBytes int) (evs []eventlog.Event, next int64, err error)
	// Prev returns the stored key-value of a key as of a revision, nil if there is none.
	Prev(key []byte, rev int64) []byte
}

// Config configures a Hub.
type Config struct {
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// Hub is described in the package comment.
type Hub struct {
	log     *eventlog.Log
	history History
	lg      *zap.Logger
	metrics *metrics

	mu      sync.Mutex
	current *index
	rev     int64      // up to which events have been dispatched
	touched []*watcher // got something in the present round of dispatching

	quit chan struct{}
	done chan struct{}
}

// NewHub starts a hub.
func NewHub(log *eventlog.Log, history History, cfg Config) *Hub {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	h := &Hub{
		log: log, history: history, lg: cfg.Logger, metrics: newMetrics(cfg.Registerer),
		current: newIndex(), rev: log.Rev(), quit: make(chan struct{}), done: make(chan struct{}),
	}
	go h.run()
	return h
}

// Close ends the hub. Streams stay valid and get nothing more.
func (h *Hub) Close() {
	close(h.quit)
	<-h.done
}

// Prev is History.Prev.
func (h *Hub) Prev(key []byte, rev int64) []byte { return h.history.Prev(key, rev) }

// Rev is the current revision.
func (h *Hub) Rev() int64 { return h.log.Rev() }

func (h *Hub) run() {
	defer close(h.done)
	for {
		changed := h.log.Changed()
		h.dispatch(h.log.Window())
		select {
		case <-changed:
		case <-h.quit:
			return
		}
	}
}

// maxDispatch is about how many events are dispatched in one round.
const maxDispatch = 256

// dispatch gives the events of a window to the current watchers, in rounds of whole revisions.
func (h *Hub) dispatch(w eventlog.Window) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rev+1 < w.First {
		h.allBehind()
		h.rev = w.First - 1
	}
	for i := w.Search(h.rev + 1); i < w.Len(); i = w.Search(h.rev + 1) {
		last := min(i+maxDispatch, w.Len())
		for last < w.Len() && w.At(last).Main == w.At(last-1).Main {
			last++
		}
		for ; i < last; i++ {
			ev := w.At(i)
			h.current.visit(str(ev.Key), func(wr *watcher) {
				if wr.offer(ev) {
					h.touched = append(h.touched, wr)
				}
			})
		}
		for _, wr := range h.touched {
			if !wr.flush() {
				h.current.remove(wr)
			}
		}
		clear(h.touched)
		h.touched = h.touched[:0]
		h.rev = w.At(last - 1).Main
		h.mu.Unlock() // others may want it
		h.mu.Lock()
	}
	h.rev = max(h.rev, w.Rev)
}

// allBehind makes every current watcher read by itself: the log no longer holds what comes next.
func (h *Hub) allBehind() {
	for _, g := range h.current.groups {
		for _, w := range g.watchers {
			w.fallBehind(h.rev + 1)
		}
	}
	h.current = newIndex()
}

func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
