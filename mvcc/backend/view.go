package backend

import (
	"bytes"
	"sync/atomic"

	"go.etcd.io/bbolt"
)

// sharedTx is a bbolt read transaction that many views use at once: each looks up with cursors of its own.
type sharedTx struct {
	tx   *bbolt.Tx
	revs *bbolt.Bucket
	refs atomic.Int64
	open *atomic.Int64 // transactions that are open
	path string
	base uintptr // of the memory map
}

func (b *Backend) beginShared(db *bbolt.DB) (*sharedTx, error) {
	tx, err := db.Begin(false)
	if err != nil {
		return nil, err
	}
	t := &sharedTx{
		tx: tx, revs: tx.Bucket([]byte(Key.String())), open: &b.metrics.openReads, path: b.cfg.Path, base: db.Info().Data,
	}
	t.refs.Store(1)
	t.open.Add(1)
	return t, nil
}

// acquire takes a reference unless the last one is already gone.
func (t *sharedTx) acquire() bool {
	for {
		n := t.refs.Load()
		if n == 0 {
			return false
		}
		if t.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (t *sharedTx) release() {
	if t.refs.Add(-1) == 0 {
		t.open.Add(-1)
		_ = t.tx.Rollback()
	}
}

// state is what readers see: everything flushed, the window behind it, and the payload that belongs to both.
type state struct {
	window  window
	tx      *sharedTx
	payload any
}

// View is a state held still. It must be released.
type View struct{ s *state }

// View returns the state as of the last Publish, or false after Close.
func (b *Backend) View() (View, bool) {
	for {
		s := b.current.Load()
		if s == nil {
			return View{}, false
		}
		if s.tx.acquire() {
			return View{s}, true
		}
	}
}

// Release ends the use of the view and of all bytes got from it.
func (v View) Release() { v.s.tx.release() }

// Payload is what the Publish of this state was given.
func (v View) Payload() any { return v.s.payload }

// Get returns the stored key-value of a revision, nil if there is none. The bytes are valid until Release.
func (v View) Get(r Rev, tombstone bool) []byte {
	if rec := v.s.window.find(r); rec != nil {
		return rec.kv
	}
	return v.s.tx.get(r, tombstone)
}

// Getter looks up many revisions of a view. It is for one goroutine.
type Getter struct {
	s      *state
	cursor *bbolt.Cursor
}

// Getter makes a getter that is valid until Release.
func (v View) Getter() Getter { return Getter{s: v.s} }

// Get is View.Get without an allocation for each.
func (g *Getter) Get(r Rev, tombstone bool) []byte {
	if rec := g.s.window.find(r); rec != nil {
		return rec.kv
	}
	if g.cursor == nil {
		g.cursor = g.s.tx.revs.Cursor()
	}
	var buf [revLen + 1]byte
	key := AppendKey(buf[:0], r, tombstone)
	if k, kv := g.cursor.Seek(key); bytes.Equal(k, key) {
		return kv
	}
	return nil
}

// Unpublished is Get for the writer: it also finds what was appended and not yet published.
func (b *Backend) Unpublished(r Rev) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rec := b.window.find(r); rec != nil {
		return rec.kv
	}
	return nil
}

func (t *sharedTx) get(r Rev, tombstone bool) []byte {
	var buf [revLen + 1]byte
	return t.revs.Get(AppendKey(buf[:0], r, tombstone))
}

// ForEachRev calls fn for every stored revision from a given one on, in order, until fn fails. The bytes are valid until
// Release.
func (v View) ForEachRev(from Rev, fn func(r Rev, tombstone bool, kv []byte) error) error {
	var ahead *readAhead
	if from == (Rev{}) {
		ahead = startReadAhead(v.s.tx.path, v.s.tx.base, v.s.tx.tx.Size())
		defer ahead.end()
	}
	c := v.s.tx.revs.Cursor()
	for k, kv := c.Seek(AppendKey(nil, from, false)); k != nil; k, kv = c.Next() {
		ahead.used(k)
		r, tombstone, err := ParseKey(k)
		if err != nil {
			return err
		}
		if err := fn(r, tombstone, kv); err != nil {
			return err
		}
	}
	w := &v.s.window
	for i := w.search(from); i < w.len(); i++ {
		rec := w.at(i)
		if err := fn(rec.rev, rec.tombstone, rec.kv); err != nil {
			return err
		}
	}
	return nil
}
