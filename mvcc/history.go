package mvcc

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/eventlog"
	"github.com/keelson-io/keelson/mvcc/index"
)

// maxIndexed is how many keys of a range are looked up one by one for their history; more are found by reading the
// revisions in the file.
const maxIndexed = 1024

// Events returns what happened to the keys in [key, end) at the main revisions from..to, in their order: whole revisions,
// until about maxBytes are together. next is the revision to go on with, above to when there is no more. ErrCompacted:
// from is below the compact revision.
func (s *Store) Events(key, end []byte, from, to int64, maxBytes int) (evs []eventlog.Event, next int64, err error) {
	t := s.Read()
	defer t.Close()
	switch {
	case t.err != nil:
		return nil, 0, t.err
	case from < t.at.compactRev:
		return nil, 0, ErrCompacted
	}
	to = min(to, t.at.rev)
	h := history{t: t, to: to, maxBytes: maxBytes, next: to + 1}
	if end == nil {
		err = h.indexed(str(key), nil, true, from)
	} else {
		lo, hi := bounds(key, end)
		if t.at.root.Count(lo, hi) <= maxIndexed && h.few(lo, hi) {
			err = h.indexed(lo, hi, false, from)
		} else {
			err = h.scanned(lo, hi, from)
		}
	}
	return h.evs, h.next, err
}

// Prev returns the stored key-value of a key as of a main revision, nil if it did not exist or is compacted.
func (s *Store) Prev(key []byte, rev int64) []byte {
	t := s.Read()
	defer t.Close()
	if t.err != nil || rev < t.at.compactRev {
		return nil
	}
	e := t.at.root.Get(str(key))
	if e == nil {
		return nil
	}
	stamp, ok := e.At(rev)
	if !ok || stamp.Tombstone() {
		return nil
	}
	return bytes.Clone(t.get.Get(stamp.Rev(), false))
}

// history collects events.
type history struct {
	t        *ReadTxn
	to       int64
	maxBytes int
	bytes    int
	evs      []eventlog.Event
	next     int64
}

var errEnough = errors.New("mvcc: enough")

// few says whether a range has few entries, deleted ones too.
func (h *history) few(lo string, hi *string) bool {
	n := 0
	h.t.at.root.Ascend(lo, hi, func(*index.Entry) bool {
		n++
		return n <= maxIndexed
	})
	return n <= maxIndexed
}

// indexed takes the revisions of each key from the index.
func (h *history) indexed(lo string, hi *string, single bool, from int64) error {
	var stamps []index.Stamp
	if single {
		if e := h.t.at.root.Get(lo); e != nil {
			stamps = e.Since(nil, from, h.to)
		}
	} else {
		h.t.at.root.Ascend(lo, hi, func(e *index.Entry) bool {
			stamps = e.Since(stamps, from, h.to)
			return true
		})
	}
	slices.SortFunc(stamps, func(a, b index.Stamp) int {
		return cmp.Or(cmp.Compare(a.Main, b.Main), cmp.Compare(a.Rev().Sub, b.Rev().Sub))
	})
	for _, s := range stamps {
		kv, err := h.t.fetch(s)
		if err == nil {
			err = h.add(s.Rev(), s.Tombstone(), kv)
		}
		if err != nil {
			return ignore(err, errEnough)
		}
	}
	return nil
}

// scanned reads all revisions and picks those of the range.
func (h *history) scanned(lo string, hi *string, from int64) error {
	err := h.t.view.ForEachRev(backend.Rev{Main: from}, func(r backend.Rev, tombstone bool, kv []byte) error {
		if r.Main > h.to {
			return errEnough
		}
		if key := str(KV(kv).Parse().Key); key < lo || hi != nil && key >= *hi {
			return nil
		}
		return h.add(r, tombstone, kv)
	})
	return ignore(err, errEnough)
}

func ignore(err, ignored error) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}

// add takes an event in, or says that it is enough, which it only is between two revisions.
func (h *history) add(r backend.Rev, tombstone bool, kv KV) error {
	if n := len(h.evs); n > 0 && h.evs[n-1].Main != r.Main && h.bytes >= h.maxBytes {
		h.next = r.Main
		return errEnough
	}
	f := KV(bytes.Clone(kv)).Parse()
	ev := eventlog.Event{Key: f.Key, Main: r.Main, Sub: r.Sub, Delete: tombstone}
	if tombstone {
		told := Fields{Key: f.Key, ModRev: r.Main}
		ev.KV = told.Marshal()
	} else {
		ev.KV, ev.Create, ev.CreateRev = bytes.Clone(kv), f.Version == 1, f.CreateRev
	}
	h.evs = append(h.evs, ev)
	h.bytes += len(ev.KV)
	return nil
}
