package agent

import (
	"context"
	"sort"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/server/backup/archive"
)

// progress is what the follower tells the base taker.
type progress struct {
	mu       sync.Mutex
	chain    string // "": none yet
	first    uint64 // the chain has the entries from here on
	received uint64 // up to here
	archived uint64 // the archive has them up to here
	terms    []term // of the entries that this agent has had
	times    []mark // of those, about one a second
	lastBase time.Time
	// following: a member serves what continues the chain. Otherwise the members may have another history by now, whose database
	// is no base of the chain.
	following bool
	changed   chan struct{} // closed on every change and replaced
}

// mark says that everything up to an index was applied at a time.
type mark struct {
	index uint64
	time  int64 // Unix, nanoseconds
}

// maxMarks bounds the marks: they are for the time that a database takes to come.
const maxMarks = 8192

// term is that of the entries from an index on.
type term struct{ index, term uint64 }

func newProgress() *progress { return &progress{changed: make(chan struct{})} }

func (p *progress) signal() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// begin begins with a chain, which may have something already.
func (p *progress) begin(c *archive.Chain, tail *archive.Tail) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chain, p.first, p.received, p.archived = c.Name, tail.Index+1, tail.Index, tail.Index
	p.terms, p.times, p.lastBase = nil, nil, time.Time{}
	if tail.Time != 0 {
		p.times = []mark{{tail.Index, tail.Time}}
	}
	if len(c.Segments) > 0 {
		p.first = c.Segments[0].First
	}
	if n := len(c.Bases); n > 0 {
		p.lastBase = c.Bases[n-1].Time
	}
	p.signal()
}

// follow notes that a member serves what continues the chain, or that it does no longer.
func (p *progress) follow(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.following = on
	p.signal()
}

// add notes entries that were received.
func (p *progress) add(entries []*raftpb.Entry, at int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range entries {
		if n := len(p.terms); n == 0 || p.terms[n-1].term != e.GetTerm() {
			p.terms = append(p.terms, term{e.GetIndex(), e.GetTerm()})
		}
		p.received = e.GetIndex()
	}
	if n := len(p.times); n > 1 && p.times[n-1].time-p.times[n-2].time < int64(time.Second) {
		p.times = p.times[:n-1]
	}
	if len(p.times) >= maxMarks {
		p.times = append([]mark(nil), p.times[maxMarks/2:]...)
	}
	p.times = append(p.times, mark{p.received, at})
}

// stored notes a segment that was archived.
func (p *progress) stored(s *archive.Segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Chain == p.chain {
		p.archived = max(p.archived, s.Last)
		p.signal()
	}
}

// took notes a base.
func (p *progress) took(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastBase = at
}

// due is the chain that needs a base at a time; "" if none does. changed tells when to ask again.
func (p *progress) due(now time.Time, interval time.Duration) (chain string, first uint64, wait time.Duration, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait = p.lastBase.Add(interval).Sub(now)
	switch {
	case p.chain == "" || !p.following:
		return "", 0, interval, p.changed
	case !p.lastBase.IsZero() && wait > 0:
		return "", 0, wait, p.changed
	}
	return p.chain, p.first, 0, p.changed
}

// await waits until the archive has an entry of a chain, which the members still continue, and says whether its term, as far as it is known, is the one given, and when it had
// been applied (0: not known).
func (p *progress) await(ctx context.Context, chain string, index, want uint64) (same bool, at int64, err error) {
	for {
		p.mu.Lock()
		changed, is, archived, following := p.changed, p.chain, p.archived, p.following
		t, known := p.termOf(index)
		at := p.timeOf(index)
		p.mu.Unlock()
		switch {
		case is != chain:
			return false, 0, nil
		case archived >= index && following:
			return !known || t == want, at, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, 0, ctx.Err()
		}
	}
}

func (p *progress) timeOf(index uint64) int64 {
	i := sort.Search(len(p.times), func(i int) bool { return p.times[i].index >= index })
	if i == len(p.times) {
		return 0
	}
	return p.times[i].time
}

func (p *progress) termOf(index uint64) (t uint64, known bool) {
	for _, run := range p.terms {
		if run.index <= index {
			t, known = run.term, true
		}
	}
	return t, known
}
