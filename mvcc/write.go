package mvcc

import (
	"bytes"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/eventlog"
	"github.com/keelson-io/keelson/mvcc/index"
)

// WriteTxn changes the store. It is a Reader that sees its own changes. What it returns is valid until End.
type WriteTxn struct {
	s       *Store
	changes int64
	view    backend.View
	get     backend.Getter
	viewing bool
}

// Write begins a transaction, in the batch that is open or in a new one. Only one may be open at a time.
func (s *Store) Write() *WriteTxn {
	s.Begin()
	return &WriteTxn{s: s}
}

// End ends the transaction. Its changes become visible to others by Publish.
func (t *WriteTxn) End() {
	if t.changes > 0 {
		t.s.now.rev++
		t.changes = 0
		t.s.sums.point(t.s.now.rev)
		t.s.metrics.txns.Inc()
	}
	if t.viewing {
		t.view.Release()
		t.viewing = false
	}
}

// Rev is the current revision: the transaction's own once it has changed something.
func (t *WriteTxn) Rev() int64 {
	if t.changes > 0 {
		return t.s.now.rev + 1
	}
	return t.s.now.rev
}

// CompactRev is Reader.CompactRev.
func (t *WriteTxn) CompactRev() int64 { return t.s.now.compactRev }

// Range is Reader.Range.
func (t *WriteTxn) Range(key, end []byte, o RangeOptions) (*RangeResult, error) {
	rev := t.Rev()
	switch {
	case o.Rev <= 0 || o.Rev == rev:
		o.Rev = 0
	case o.Rev > rev:
		return nil, ErrFutureRev
	case o.Rev < t.s.now.compactRev:
		return nil, ErrCompacted
	}
	sc := scan{root: t.s.tree.Root(), rev: o.Rev, fetch: t.fetch}
	res, err := sc.run(key, end, o)
	if err != nil {
		return nil, err
	}
	res.Rev = rev
	return res, nil
}

func (t *WriteTxn) fetch(s index.Stamp) (KV, error) {
	be := t.s.be.Load()
	if kv := be.Unpublished(s.Rev()); kv != nil {
		return kv, nil
	}
	if !t.viewing {
		view, ok := be.View()
		if !ok {
			return nil, ErrClosed
		}
		t.view, t.get, t.viewing = view, view.Getter(), true
	}
	kv := t.get.Get(s.Rev(), s.Tombstone())
	if kv == nil {
		return nil, corrupt(be, s.Rev())
	}
	return kv, nil
}

func (t *WriteTxn) nextRev() backend.Rev {
	r := backend.Rev{Main: t.s.now.rev + 1, Sub: t.changes}
	t.changes++
	return r
}

// Put sets a key. The key and value are copied.
func (t *WriteTxn) Put(key, value []byte, lease int64) {
	r := t.nextRev()
	e := t.s.tree.Root().Get(str(key))
	if e == nil {
		e = index.New(string(key), index.NewStamp(r, false), r.Main, 1)
	} else {
		e = e.Put(r)
	}
	f := Fields{Key: key, Value: value, CreateRev: e.Create, ModRev: r.Main, Version: e.Version, Lease: lease}
	kv := f.Marshal()
	e.Size = uint32(len(kv))
	t.s.tree.Set(e)
	t.s.sums.written += recordSum(r, false, kv)
	t.s.be.Load().AppendRev(r, false, kv)
	t.s.log.Append(eventlog.Event{KV: kv, Key: []byte(e.Key), Main: r.Main, Sub: r.Sub, Create: e.Version == 1, CreateRev: e.Create})
	t.s.metrics.put(len(kv))
}

// DeleteRange deletes the keys in [key, end), see Reader.Range, and returns them.
func (t *WriteTxn) DeleteRange(key, end []byte) (deleted [][]byte) {
	var found []*index.Entry
	root := t.s.tree.Root()
	if end == nil {
		if e := root.Get(str(key)); e != nil && e.Live() {
			found = append(found, e)
		}
	} else if from, to := bounds(key, end); to == nil || *to > from {
		root.AscendLive(from, to, func(e *index.Entry) bool {
			found = append(found, e)
			return true
		})
	}
	for _, e := range found {
		deleted = append(deleted, t.delete(e))
	}
	t.s.metrics.deletes.Add(float64(len(deleted)))
	return deleted
}

func (t *WriteTxn) delete(e *index.Entry) []byte {
	r := t.nextRev()
	t.s.tree.Set(e.Delete(r))
	key := []byte(e.Key)
	stored := Fields{Key: key}
	kv := stored.Marshal()
	t.s.sums.written += recordSum(r, true, kv)
	t.s.be.Load().AppendRev(r, true, kv)
	told := Fields{Key: key, ModRev: r.Main}
	t.s.log.Append(eventlog.Event{KV: told.Marshal(), Key: bytes.Clone(key), Main: r.Main, Sub: r.Sub, Delete: true, CreateRev: e.Create})
	return key
}
