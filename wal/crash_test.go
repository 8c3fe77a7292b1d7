package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/vfs"
)

// written is one record that was given to the log: an entry, a hard state or a marker.
type written struct {
	entry  *raftpb.Entry
	state  *raftpb.HardState
	marker *walpb.Snapshot
}

// history is what was given to a log, in order, and how much of it was acknowledged as durable.
type history struct {
	records []written
	acked   int
}

// replay returns the entries (entry i has index i+1) and the hard state after k records.
func (h *history) replay(k int) (ents []*raftpb.Entry, hs *raftpb.HardState) {
	for _, w := range h.records[:k] {
		switch {
		case w.entry != nil:
			ents = append(ents[:w.entry.GetIndex()-1], w.entry)
		case w.state != nil:
			hs = w.state
		}
	}
	return ents, hs
}

// marker returns the newest marker among k records.
func (h *history) marker(k int) uint64 {
	index := uint64(0)
	for _, w := range h.records[:k] {
		index = max(index, w.marker.GetIndex())
	}
	return index
}

// find returns how many records a log that was opened at a marker must have found.
func (h *history) find(marker uint64, c *Contents) (int, error) {
	for k := h.acked; k <= len(h.records); k++ {
		ents, hs := h.replay(k)
		if uint64(len(ents)) < marker || h.marker(k) < marker {
			continue
		}
		ents = ents[marker:]
		same := len(ents) == len(c.Entries) && proto.Equal(hs, c.HardState)
		for i := 0; same && i < len(ents); i++ {
			same = proto.Equal(ents[i], c.Entries[i])
		}
		if same {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%d entries after %d with state %v are no state between %d and %d records", len(c.Entries), marker, c.HardState, h.acked, len(h.records))
}

// power ends the life of a log after some operations of the file system: it cuts the power or kills the process.
type power struct {
	mu      sync.Mutex
	mem     *vfs.Mem
	rng     *rand.Rand
	kill    bool
	left    int // operations
	history history
	after   *vfs.Mem // what the crash left
	then    history  // at that time
}

var errKilled = errors.New("killed")

func (p *power) before(vfs.Op, string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left--; p.left == 0 {
		p.then = history{p.history.records[:len(p.history.records):len(p.history.records)], p.history.acked}
		if p.after = p.mem; !p.kill {
			p.after = p.mem.CrashClone(p.rng)
		}
	}
	if p.kill && p.left <= 0 {
		return errKilled
	}
	return nil
}

func (p *power) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.after != nil
}

func (p *power) add(w ...written) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history.records = append(p.history.records, w...)
}

func (p *power) ack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history.acked = len(p.history.records)
}

// life is a log in use until the power is cut.
type life struct {
	t    *testing.T
	rng  *rand.Rand
	p    *power
	log  *Log
	term uint64
}

const crashDir = "/data/member/wal"

// start opens or creates the log and checks what is in it. Its errors are those of a process that is killed.
func (l *life) start(fs vfs.FS, o Options) (err error) {
	t, h := l.t, &l.p.history
	if !Exist(l.p.mem, crashDir) {
		require.Zero(t, h.acked)
		require.NoError(t, l.p.mem.MkdirAll(filepath.Dir(crashDir), 0o700))
		require.NoError(t, l.p.mem.SyncDir("/data"))
		l.log, err = Create(fs, crashDir, []byte("meta"), o)
		return err
	}
	markers, err := SnapshotMarkers(l.p.mem, crashDir)
	require.NoError(t, err)
	marker := markers[len(markers)-1]
	require.GreaterOrEqual(t, marker.GetIndex(), h.marker(h.acked))
	seen, err := ReadOnly(l.p.mem, crashDir, marker)
	require.NoError(t, err)
	log, contents, err := Open(fs, crashDir, marker, o)
	if err != nil {
		return err
	}
	l.log = log
	require.Equal(t, "meta", string(contents.Metadata))
	requireEntries(t, seen.Entries, contents.Entries)
	k, err := h.find(marker.GetIndex(), contents)
	require.NoError(t, err)
	l.p.mu.Lock()
	h.records, h.acked = h.records[:k], k // Open makes it durable
	l.p.mu.Unlock()
	if len(contents.Entries) == 0 {
		return nil
	}
	first := contents.Entries[0].GetIndex()
	got, err := log.Entries(first, first+uint64(len(contents.Entries)), 1<<62)
	if err == nil {
		requireEntries(t, contents.Entries, got)
	}
	return err
}

// step does one random thing.
func (l *life) step(fs vfs.FS) error {
	ents, hs := l.p.history.replay(len(l.p.history.records))
	commit := hs.GetCommit()
	last := uint64(len(ents))
	switch l.rng.IntN(10) {
	case 0: // marker of what is committed
		if commit == 0 {
			return nil
		}
		index := commit - uint64(l.rng.IntN(int(min(commit, 5))))
		marker := &walpb.Snapshot{Index: proto.Uint64(index), Term: ents[index-1].Term, ConfState: &raftpb.ConfState{Voters: []uint64{1}}}
		l.p.add(written{marker: marker})
		if err := l.log.SaveSnapshot(marker); err != nil {
			return err
		}
		l.p.ack()
		if err := l.log.ReleaseTo(index); err != nil {
			return err
		}
		_, err := Purge(fs, crashDir, suffix, 2, nil)
		return err
	case 1: // a new leader replaces the end
		l.term++
		last = commit + uint64(l.rng.IntN(int(last-commit)+1))
		fallthrough
	default:
		var add []*raftpb.Entry
		for range 1 + l.rng.IntN(4) {
			last++
			e := entry(last, l.term, l.rng.IntN(1+l.rng.IntN(1+l.rng.IntN(5000))))
			l.p.add(written{entry: e})
			add = append(add, e)
		}
		var next *raftpb.HardState
		if l.rng.IntN(2) == 0 {
			next = state(l.term, commit+uint64(l.rng.IntN(int(last-commit)+1)))
			l.p.add(written{state: next})
		}
		sync := l.rng.IntN(3) > 0
		if err := l.log.Save(next, add, sync); err != nil {
			return err
		}
		if sync {
			l.p.ack()
		}
	}
	return nil
}

// TestCrash cuts the power or kills the process again and again, in the middle of anything, and goes on with what is left.
func TestCrash(t *testing.T) {
	repaired := 0
	for seed := range uint64(80) {
		rng := rand.New(rand.NewPCG(seed, 7))
		o := Options{SegmentBytes: 1024 << rng.IntN(4)}
		mem, h := vfs.NewMem(), history{}
		for generation := range 12 {
			p := &power{mem: mem, rng: rand.New(rand.NewPCG(seed, uint64(generation))), kill: rng.IntN(3) == 0, left: 1 + rng.IntN(20<<rng.IntN(5)), history: h}
			fs := vfs.NewFaulty(mem, p.before)
			l := &life{t: t, rng: rng, p: p, term: uint64(generation)*1000 + 1}
			err := l.start(fs, o)
			for err == nil && !p.gone() {
				err = l.step(fs)
			}
			if err != nil {
				require.ErrorIs(t, err, errKilled)
			}
			if l.log != nil {
				require.NoError(t, ignoreKilled(l.log.Close()))
			}
			if mem, h = p.after, p.then; p.kill { // while it died it may still have written something
				h = p.history
			}
		}
		names, _ := mem.ReadDir(crashDir)
		if strings.Contains(fmt.Sprint(names), ".broken") {
			repaired++
		}
	}
	require.Positive(t, repaired, "no write was ever torn")
}

func ignoreKilled(err error) error {
	if errors.Is(err, errKilled) {
		return nil
	}
	return err
}

// TestPoisoned fails operations: nothing is written after an error, and what was acknowledged before is there.
func TestPoisoned(t *testing.T) {
	broken := errors.New("broken")
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpTruncate, vfs.OpPreallocate, vfs.OpLock, vfs.OpRename, vfs.OpSyncDir} {
		for at := 1; at < 40; at += 5 {
			mem := vfs.NewMem()
			var mu sync.Mutex
			armed, left := false, at
			fs := vfs.NewFaulty(mem, func(o vfs.Op, _ string) error {
				mu.Lock()
				defer mu.Unlock()
				if armed && o == op {
					if left--; left == 0 {
						return broken
					}
				}
				return nil
			})
			l, err := Create(fs, "/wal", []byte("meta"), Options{SegmentBytes: 1000})
			require.NoError(t, err)
			mu.Lock()
			armed = true
			mu.Unlock()
			acked := uint64(0)
			for i := uint64(1); i < 1000 && err == nil; i++ {
				if err = l.Save(state(1, i-1), []*raftpb.Entry{entry(i, 1, 100)}, true); err == nil {
					acked = i
				}
			}
			require.ErrorIs(t, err, broken, op)
			require.Equal(t, err, l.Save(nil, []*raftpb.Entry{entry(acked+1, 1, 1)}, true))
			require.Equal(t, err, l.SaveSnapshot(&walpb.Snapshot{Index: proto.Uint64(1), Term: proto.Uint64(1)}))
			require.Equal(t, err, l.Sync())
			require.NoError(t, l.Close())

			crashed := mem.CrashClone(rand.New(rand.NewPCG(uint64(at), 0)))
			l, contents, err := Open(crashed, "/wal", nil, Options{SegmentBytes: 1000})
			require.NoError(t, err)
			require.GreaterOrEqual(t, uint64(len(contents.Entries)), acked)
			require.NoError(t, l.Close())
		}
	}
}

// TestCreateFails fails the n-th operation of Create, for every n: afterwards there is no log, or a good one.
func TestCreateFails(t *testing.T) {
	broken := errors.New("broken")
	for n := 1; ; n++ {
		mem := vfs.NewMem()
		var left atomic.Int64
		left.Store(int64(n))
		l, err := Create(vfs.NewFaulty(mem, func(vfs.Op, string) error {
			if left.Add(-1) == 0 {
				return broken
			}
			return nil
		}), "/d/wal", []byte("meta"), Options{SegmentBytes: 1 << 10})
		if left.Load() > 0 { // all that Create does was done before
			require.NoError(t, err)
			require.NoError(t, l.Close())
			return
		}
		if err == nil { // the segment that is prepared in the background
			require.NoError(t, l.Close())
			continue
		}
		require.ErrorIs(t, err, broken)
		if !Exist(mem, "/d/wal") {
			l, err = Create(mem, "/d/wal", []byte("meta"), Options{})
		} else {
			l, _, err = Open(mem, "/d/wal", nil, Options{})
		}
		require.NoError(t, err, "after failure of operation %d", n)
		require.NoError(t, l.Close())
	}
}
