package backend

import "sort"

// record is one revision that was appended.
type record struct {
	rev       Rev
	tombstone bool
	kv        []byte
}

// recordOverhead is what a record costs in memory beside its bytes.
const recordOverhead = 56

const chunkLen = 512

type chunk [chunkLen]record

// window is a run of records in rising order, in memory. It is a value: records are appended behind the end of all copies
// made so far, so that copies never change.
type window struct {
	chunks []*chunk
	first  int // the first record, counted from the start of chunks[0]
	end    int // one past the last, counted likewise
}

func (w *window) len() int         { return w.end - w.first }
func (w *window) at(i int) *record { return &w.chunks[(w.first+i)/chunkLen][(w.first+i)%chunkLen] }

func (w *window) append(r record) {
	if w.end == len(w.chunks)*chunkLen {
		w.chunks = append(w.chunks, new(chunk))
	}
	w.chunks[w.end/chunkLen][w.end%chunkLen] = r
	w.end++
}

// drop removes the first n records.
func (w *window) drop(n int) {
	w.first += n
	skip := w.first / chunkLen
	w.chunks = w.chunks[skip:]
	w.first -= skip * chunkLen
	w.end -= skip * chunkLen
}

// find returns the record of a revision, or nil.
func (w *window) find(r Rev) *record {
	n := w.len()
	if n == 0 || r.Compare(w.at(0).rev) < 0 {
		return nil
	}
	i := w.search(r)
	if i == n || w.at(i).rev != r {
		return nil
	}
	return w.at(i)
}

// search returns the place of the first record that is not before r.
func (w *window) search(r Rev) int {
	return sort.Search(w.len(), func(i int) bool { return w.at(i).rev.Compare(r) >= 0 })
}
