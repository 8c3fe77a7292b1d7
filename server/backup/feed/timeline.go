package feed

import (
	"sort"
	"sync"

	"github.com/keelson-io/keelson/server/replica"
)

// maxNotes bounds a timeline: a note a second for more than two hours, then with half of the resolution for twice as long.
const maxNotes = 8192

// note says that everything up to a position was applied at a time.
type note struct {
	replica.Position
	time int64 // Unix, nanoseconds
}

// timeline is a bounded number of notes with rising indexes and times.
type timeline struct {
	mu    sync.Mutex
	notes []note
}

// add notes a position if it is a new one.
func (t *timeline) add(p replica.Position, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.notes); n > 0 {
		last := t.notes[n-1]
		if p.Index <= last.Index {
			return
		}
		now = max(now, last.time) // a clock that was set back
	}
	if len(t.notes) == maxNotes {
		for i := range maxNotes / 2 {
			t.notes[i] = t.notes[2*i+1]
		}
		t.notes = t.notes[:maxNotes/2]
	}
	t.notes = append(t.notes, note{p, now})
}

// at returns the first note that covers an index.
func (t *timeline) at(index uint64) (note, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := sort.Search(len(t.notes), func(i int) bool { return t.notes[i].Index >= index })
	if i == len(t.notes) {
		return note{}, false
	}
	return t.notes[i], true
}
