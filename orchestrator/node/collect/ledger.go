package collect

import (
	"cmp"
	"slices"
	"time"
)

// Policy says when images go.
type Policy struct {
	// High and Low are percentages of the file system of images that are used: at High images go until Low is reached. High of 0 or
	// 100: never.
	High, Low int
	// MinAge is how long an image stays at least after it came.
	MinAge time.Duration
	// MaxAge is how long an image stays that nobody uses; 0: for ever.
	MaxAge time.Duration
}

// Image is one that a node has.
type Image struct {
	ID   string
	Size int64 // bytes
	Used bool  // now, or pinned
}

// record is what is noted of an image.
type record struct {
	came    time.Time // zero: before the first round
	noticed time.Time
	used    time.Time // the last time; zero: never
	inUse   bool
	size    int64
}

// idle is since when an image has not been used.
func (r *record) idle() time.Time {
	if r.used.After(r.noticed) {
		return r.used
	}
	return r.noticed
}

// ledger notes what there is.
type ledger struct {
	records map[string]*record
	begun   bool
}

// update takes all images that there are.
func (l *ledger) update(now time.Time, all []Image) {
	if l.records == nil {
		l.records = map[string]*record{}
	}
	there := map[string]bool{}
	for _, i := range all {
		there[i.ID] = true
		r := l.records[i.ID]
		if r == nil {
			r = &record{noticed: now}
			if l.begun {
				r.came = now
			}
			l.records[i.ID] = r
		}
		r.size, r.inUse = i.Size, i.Used
		if i.Used {
			r.used = now
		}
	}
	for id := range l.records {
		if !there[id] {
			delete(l.records, id)
		}
	}
	l.begun = true
}

// candidate is an image that may go.
type candidate struct {
	id   string
	size int64
}

// old are the images that nobody has used for too long.
func (l *ledger) old(now time.Time, p Policy) []candidate {
	if p.MaxAge <= 0 {
		return nil
	}
	return l.pick(func(r *record) bool { return now.Sub(r.idle()) > p.MaxAge })
}

// spare are the images that may go when there is need.
func (l *ledger) spare(now time.Time, p Policy) []candidate {
	return l.pick(func(r *record) bool { return now.Sub(r.came) >= p.MinAge })
}

// pick are images that are not in use, those that were unused for longest first.
func (l *ledger) pick(may func(*record) bool) (out []candidate) {
	for id, r := range l.records {
		if !r.inUse && may(r) {
			out = append(out, candidate{id, r.size})
		}
	}
	slices.SortFunc(out, func(a, b candidate) int {
		x, y := l.records[a.id], l.records[b.id]
		return cmp.Or(x.used.Compare(y.used), x.came.Compare(y.came), cmp.Compare(a.id, b.id))
	})
	return out
}
