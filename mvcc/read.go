package mvcc

import (
	"fmt"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/index"
)

// RangeOptions say what a range is to return.
type RangeOptions struct {
	Rev       int64 // 0 or less: the reader's current revision
	Limit     int64 // 0: all
	CountOnly bool
}

// RangeResult is what a range holds.
type RangeResult struct {
	KVs   []KV  // by key, at most Limit; valid until the reader is closed
	Count int64 // keys in the range, whatever the limit
	Rev   int64 // the reader's current revision
}

// Reader reads one state.
type Reader interface {
	Rev() int64
	CompactRev() int64
	// Range returns the keys in [key, end). A nil end means key alone, an end of one zero byte everything from key on.
	// Errors: ErrCompacted, ErrFutureRev.
	Range(key, end []byte, o RangeOptions) (*RangeResult, error)
}

// ReadTxn reads one published state.
type ReadTxn struct {
	store *Store
	view  backend.View
	get   backend.Getter
	at    *published
	err   error
}

// Read returns a transaction on the published state. It must be closed.
func (s *Store) Read() *ReadTxn {
	t := &ReadTxn{store: s}
	t.view, t.at, t.err = s.view()
	if t.err != nil {
		t.at = &published{}
		return t
	}
	t.get = t.view.Getter()
	return t
}

// Close ends the transaction and the use of what it returned.
func (t *ReadTxn) Close() {
	if t.err == nil {
		t.view.Release()
		t.err = ErrClosed
	}
}

// Rev is the current revision of the state.
func (t *ReadTxn) Rev() int64 { return t.at.rev }

// CompactRev is the revision below which reads fail, -1 if there is none.
func (t *ReadTxn) CompactRev() int64 { return t.at.compactRev }

// Range is Reader.Range.
func (t *ReadTxn) Range(key, end []byte, o RangeOptions) (*RangeResult, error) {
	if t.err != nil {
		return nil, t.err
	}
	t.store.metrics.ranges.Inc()
	current := o.Rev <= 0 || o.Rev == t.at.rev
	root, err := t.rootAt(&o)
	if err != nil {
		return nil, err
	}
	sc := scan{root: root, rev: o.Rev, fetch: t.fetch}
	res, err := sc.run(key, end, o)
	if err != nil {
		return nil, err
	}
	res.Rev = t.at.rev
	if current && o.Limit > 0 && !o.CountOnly && res.Count > o.Limit {
		t.store.pins.add(t.at.rev, root)
	}
	return res, nil
}

// rootAt finds the index for a range. It sets o.Rev to 0 if the index is as of the revision wanted.
func (t *ReadTxn) rootAt(o *RangeOptions) (index.Root, error) {
	switch {
	case o.Rev <= 0 || o.Rev == t.at.rev:
		o.Rev = 0
		return t.at.root, nil
	case o.Rev > t.at.rev:
		return index.Root{}, ErrFutureRev
	case o.Rev < t.at.compactRev:
		return index.Root{}, ErrCompacted
	}
	if root, ok := t.store.pins.get(o.Rev); ok {
		o.Rev = 0
		return root, nil
	}
	return t.at.root, nil
}

func (t *ReadTxn) fetch(s index.Stamp) (KV, error) {
	kv := t.get.Get(s.Rev(), s.Tombstone())
	if kv == nil {
		return nil, corrupt(t.store.be.Load(), s.Rev())
	}
	return kv, nil
}

// scan reads a range of an index.
type scan struct {
	root  index.Root
	rev   int64 // 0: as of the index's last changes
	fetch func(index.Stamp) (KV, error)
}

func (sc *scan) run(key, end []byte, o RangeOptions) (*RangeResult, error) {
	if end == nil {
		return sc.one(key, o)
	}
	res := &RangeResult{}
	from, to := bounds(key, end)
	if to != nil && *to <= from {
		return res, nil
	}
	if sc.rev > 0 {
		return res, sc.past(from, to, o, res)
	}
	res.Count = sc.root.Count(from, to)
	want := res.Count
	if o.Limit > 0 {
		want = min(want, o.Limit)
	}
	if o.CountOnly || want == 0 {
		return res, nil
	}
	res.KVs = make([]KV, 0, want)
	var err error
	sc.root.AscendLive(from, to, func(e *index.Entry) bool {
		var kv KV
		if kv, err = sc.fetch(e.Last); err == nil {
			res.KVs = append(res.KVs, kv)
		}
		return err == nil && int64(len(res.KVs)) < want
	})
	return res, err
}

// past reads as of an older revision.
func (sc *scan) past(from string, to *string, o RangeOptions, res *RangeResult) (err error) {
	sc.root.Ascend(from, to, func(e *index.Entry) bool {
		s, ok := e.At(sc.rev)
		if !ok || s.Tombstone() {
			return true
		}
		res.Count++
		if o.CountOnly || o.Limit > 0 && res.Count > o.Limit {
			return true
		}
		var kv KV
		kv, err = sc.fetch(s)
		res.KVs = append(res.KVs, kv)
		return err == nil
	})
	return err
}

func (sc *scan) one(key []byte, o RangeOptions) (*RangeResult, error) {
	res := &RangeResult{}
	e := sc.root.Get(str(key))
	if e == nil {
		return res, nil
	}
	s, ok := e.Last, true
	if sc.rev > 0 {
		s, ok = e.At(sc.rev)
	}
	if !ok || s.Tombstone() {
		return res, nil
	}
	res.Count = 1
	if o.CountOnly {
		return res, nil
	}
	kv, err := sc.fetch(s)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", key, err)
	}
	res.KVs = []KV{kv}
	return res, nil
}

// bounds translates the end of a range into that of an index walk.
func bounds(key, end []byte) (from string, to *string) {
	from = str(key)
	if len(end) == 1 && end[0] == 0 {
		return from, nil
	}
	e := str(end)
	return from, &e
}
