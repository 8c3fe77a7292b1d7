package watch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/watch"
)

// The tests named after etcd's issues are listed in docs/contributing/regressions.md.

// life is a store that can be opened again.
type life struct {
	t     *testing.T
	path  string
	be    *backend.Backend
	store *mvcc.Store
	hub   *watch.Hub
}

func newLife(t *testing.T) *life {
	l := &life{t: t, path: filepath.Join(t.TempDir(), "db")}
	l.open()
	t.Cleanup(l.close)
	return l
}

func (l *life) open() {
	var err error
	l.be, err = backend.Open(backend.Config{Path: l.path, NoSync: true, InitialMmapBytes: 1 << 30, BatchInterval: time.Millisecond})
	require.NoError(l.t, err)
	l.store, err = mvcc.Open(l.be, mvcc.Config{CompactionSleep: time.Microsecond}, func([]byte, int64) {})
	require.NoError(l.t, err)
	l.hub = watch.NewHub(l.store.Log(), l.store, watch.Config{})
}

func (l *life) close() {
	l.hub.Close()
	l.store.Close()
	require.NoError(l.t, l.be.Close())
}

func (l *life) restart() { l.close(); l.open() }

func (l *life) delete(keys ...string) int64 {
	w := l.store.Write()
	for _, k := range keys {
		w.DeleteRange([]byte(k), nil)
	}
	w.End()
	l.store.Publish()
	return w.Rev()
}

// compact compacts and, if it is to be awaited, waits until the old revisions are gone from the file.
func (l *life) compact(rev int64, await bool) {
	l.t.Helper()
	done, err := l.store.Compact(rev)
	require.NoError(l.t, err)
	l.store.Publish()
	if await {
		<-done
	}
}

// events are what a new watch is told at once, as describe writes them; want is how many to wait for.
func (l *life) events(r watch.Request, want int) (got []string) {
	l.t.Helper()
	st := l.hub.NewStream()
	defer st.Close()
	require.NoError(l.t, st.Watch(l.t.Context(), r))
	require.True(l.t, next(l.t, st).Created)
	for len(got) < want {
		resp := next(l.t, st)
		require.False(l.t, resp.Canceled, "%+v", resp)
		for _, ev := range resp.Events {
			got = append(got, describe(string(ev.Key), ev.Main, ev.Delete))
		}
	}
	quiet(l.t, st)
	return got
}

// TestEtcd18089CompactionAtADeletion compacts at the revision that deleted a key which exists again. In etcd a watch from that
// revision did not get the deletion.
func TestEtcd18089CompactionAtADeletion(t *testing.T) {
	for _, span := range []string{"key", "range"} {
		t.Run(span, func(t *testing.T) {
			l := newLife(t)
			req := watch.Request{Key: []byte("k")}
			if span == "range" {
				req.Key, req.End = []byte("a"), []byte{0}
			}
			for range 3 {
				put(l.store, "k")
			}
			rev := l.delete("k")
			put(l.store, "k")
			req.StartRev = rev
			want := []string{describe("k", rev, true), describe("k", rev+1, false)}
			require.Equal(t, want, l.events(req, 2))
			l.compact(rev, false)
			require.Equal(t, want, l.events(req, 2), "compacted, but perhaps not yet removed")
			l.settle()
			require.Equal(t, want, l.events(req, 2), "from memory")
			l.restart()
			require.Equal(t, want, l.events(req, 2), "from the file")
		})
	}
}

// settle waits for the compactions that are under way.
func (l *life) settle() {
	done, err := l.store.Compact(-1)
	require.ErrorIs(l.t, err, mvcc.ErrCompacted)
	l.store.Publish()
	<-done
}

// TestEtcd19179WatchFromTheCompactRevision watches from the compact revision when keys were deleted there, for good, by one
// transaction. In etcd such a deletion was missing if the watch was opened after the compaction.
func TestEtcd19179WatchFromTheCompactRevision(t *testing.T) {
	l := newLife(t)
	put(l.store, "a", "b", "c")
	put(l.store, "b")
	l.delete("c") // this one may go
	rev := l.delete("a", "b")
	want := []string{describe("a", rev, true), describe("b", rev, true)}
	one := watch.Request{Key: []byte("b"), StartRev: rev}
	all := watch.Request{Key: []byte("a"), End: []byte("z"), StartRev: rev}
	check := func(when string) {
		t.Helper()
		require.Equal(t, want, l.events(all, 2), when)
		require.Equal(t, want[1:], l.events(one, 1), when)
	}
	check("before the compaction")
	l.compact(rev, false)
	check("while it is under way")
	l.settle()
	check("after it")
	for range 2 {
		l.restart()
		check("after a restart")
	}
	put(l.store, "d")
	l.compact(rev+1, true)
	st := l.hub.NewStream()
	defer st.Close()
	require.NoError(t, st.Watch(t.Context(), all))
	require.True(t, next(t, st).Created)
	require.Equal(t, watch.Response{ID: 0, Canceled: true, CompactRev: rev + 1}, next(t, st), "the next compaction takes it, and says so")
}

// seen follows a stream and says what must never happen on it.
type seen struct {
	rev     int64            // the highest that a response carried
	upTo    map[int64]int64  // of each watcher: the last revision it got events of
	from    map[int64]int64  // of each watcher: where it began
	events  map[int64]string // of each watcher: all events, in order
	bounded map[int64]int64  // of each watcher: the highest progress it was told
}

func newSeen() *seen {
	return &seen{upTo: map[int64]int64{}, from: map[int64]int64{}, events: map[int64]string{}, bounded: map[int64]int64{}}
}

func (s *seen) take(t testing.TB, r watch.Response) {
	t.Helper()
	if r.Canceled {
		return
	}
	require.GreaterOrEqual(t, r.Rev, s.rev, "the stream's revision fell: %+v", r)
	s.rev = r.Rev
	for _, ev := range r.Events {
		require.Greater(t, ev.Main, s.bounded[r.ID], "an event at or before a promise of progress")
		require.GreaterOrEqual(t, ev.Main, s.upTo[r.ID], "events go back in time")
		require.GreaterOrEqual(t, ev.Main, s.from[r.ID], "an event from before the start")
		require.LessOrEqual(t, ev.Main, r.Rev)
		s.upTo[r.ID] = ev.Main
		s.events[r.ID] += describe(string(ev.Key), ev.Main, ev.Delete) + "\n"
	}
	switch {
	case r.Created || len(r.Events) > 0:
	case r.ID == watch.InvalidID:
		for id := range s.from {
			require.GreaterOrEqual(t, r.Rev, s.from[id]-1, "progress from before the start of %d", id)
			s.bounded[id] = max(s.bounded[id], r.Rev)
		}
	default:
		require.GreaterOrEqual(t, r.Rev, s.from[r.ID]-1, "progress from before the start")
		s.bounded[r.ID] = max(s.bounded[r.ID], r.Rev)
	}
}

// TestEtcd15220ProgressAfterEvents asks for progress again and again while watchers are behind, have a full list, or are
// being told something. In etcd the answer could come before the events that it promises.
func TestEtcd15220ProgressAfterEvents(t *testing.T) {
	store, hub := open(t, 20_000)
	rng := rand.New(rand.NewPCG(1, 15220))
	for range 300 {
		put(store, "k", fmt.Sprint("x", rng.IntN(5)))
	}
	st := hub.NewStream()
	defer st.Close()
	s := newSeen()
	add := func(id, from int64, r watch.Request) {
		r.ID, r.StartRev, r.Progress = id, from, id%2 == 0
		s.from[id] = from
		require.NoError(t, st.Watch(t.Context(), r))
	}
	add(1, 2, watch.Request{Key: []byte("k")})
	add(2, store.Rev()-50, watch.Request{Key: []byte("a"), End: []byte{0}})
	add(3, store.Rev()+1, watch.Request{Key: []byte("k")})
	promised := 0
	for i := range 3000 {
		switch rng.IntN(6) {
		case 0:
			for range rng.IntN(5) {
				put(store, "k", fmt.Sprint("x", rng.IntN(5)))
			}
			if i%500 == 0 { // more than a watcher's list holds
				for range 1500 {
					put(store, "k")
				}
			}
		case 1:
			st.RequestProgress()
		case 2:
			st.Tick()
		default:
			ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
			if r, err := st.Next(ctx); err == nil {
				s.take(t, r)
				if !r.Created && len(r.Events) == 0 {
					promised++
				}
			}
			cancel()
		}
	}
	require.Greater(t, promised, 20)
	for s.upTo[1] < store.Rev() || s.upTo[2] < store.Rev() || s.upTo[3] < store.Rev() {
		s.take(t, next(t, st))
	}
}

// TestEtcd20221WatchOfTheFuture opens watches on revisions that do not exist here yet, as a client does that learned of them
// from another member. In etcd they got events and progress from before their start.
func TestEtcd20221WatchOfTheFuture(t *testing.T) {
	store, hub := open(t, 5_000)
	st := hub.NewStream()
	defer st.Close()
	s := newSeen()
	start := store.Rev() + 40
	for id, r := range []watch.Request{{Key: []byte("k")}, {Key: []byte("a"), End: []byte("z")}, {Key: []byte("k"), NoDelete: true}} {
		r.ID, r.StartRev, r.Progress = int64(id+1), start+int64(id*30), true
		s.from[r.ID] = r.StartRev
		require.NoError(t, st.Watch(t.Context(), r))
		s.take(t, next(t, st))
	}
	drain := func() {
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Microsecond)
			r, err := st.Next(ctx)
			cancel()
			if err != nil {
				return
			}
			s.take(t, r)
		}
	}
	for store.Rev() < start+200 {
		put(store, "k")
		st.RequestProgress()
		st.Tick()
		st.Tick()
		if store.Rev()%7 != 0 { // now and then something is left in the lists
			drain()
		}
	}
	drain()
	for id, from := range s.from {
		want := ""
		for rev := from; rev <= store.Rev(); rev++ {
			want += describe("k", rev, false) + "\n"
		}
		require.Equal(t, want, s.events[id], "every event from the start on")
	}
}

// TestEtcd17529StarvedWatcher lets many watchers of one stream starve: nothing is read while far more happens than their
// lists hold, and sometimes more than the log in memory does, and part of it is compacted. In etcd some then went on behind a gap, silently.
func TestEtcd17529StarvedWatcher(t *testing.T) {
	for _, c := range []struct {
		logBytes  int64
		compacted bool
	}{{50_000, false}, {50_000, true}, {1 << 30, false}, {1 << 30, true}} {
		logBytes, compacted := c.logBytes, c.compacted
		t.Run(fmt.Sprintf("log of %d, compacted=%v", logBytes, compacted), func(t *testing.T) {
			t.Parallel()
			store, hub := open(t, logBytes)
			st := hub.NewStream()
			defer st.Close()
			const watchers, writes = 120, 2000
			for id := int64(1); id <= watchers; id++ {
				req := watch.Request{ID: id, Key: []byte("k"), PrevKV: true}
				if id%3 == 0 {
					req.End = []byte("l")
				}
				require.NoError(t, st.Watch(t.Context(), req))
				require.True(t, next(t, st).Created)
			}
			first := store.Rev() + 1
			for i := range writes {
				put(store, "k", "other")
				if i%100 == 0 {
					st.Tick() // the dispatcher keeps up, so that lists fill as far as the log allows
				}
			}
			last, compactRev := store.Rev(), store.Rev()-1000
			if compacted {
				done, err := store.Compact(compactRev)
				require.NoError(t, err)
				store.Publish()
				<-done
			}
			upTo := map[int64]int64{}
			ended := 0
			for id := int64(1); id <= watchers; id++ {
				upTo[id] = first - 1
			}
			for ended < watchers {
				r := next(t, st)
				if r.Canceled {
					require.True(t, compacted)
					require.Equal(t, compactRev, r.CompactRev)
					require.Less(t, upTo[r.ID], compactRev, "it could have gone on")
					ended++
					continue
				}
				for _, ev := range r.Events {
					require.Equal(t, upTo[r.ID]+1, ev.Main, "watcher %d has a gap, or an event twice", r.ID)
					upTo[r.ID] = ev.Main
				}
				if upTo[r.ID] == last {
					ended++
				}
			}
			quiet(t, st)
		})
	}
}

// TestEtcd15271And17247Restore has watchers of every state go on over snapshots from the leader that take the place of the
// store. In etcd the revisions on a stream could fall, and events could come twice.
func TestEtcd15271And17247Restore(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 15271))
			leader, _ := open(t, 1<<20)
			store, hub := open(t, 20_000)
			st := hub.NewStream()
			defer st.Close()
			s := newSeen()
			var id int64
			read := func(n int) {
				for range n {
					ctx, cancel := context.WithTimeout(t.Context(), 50*time.Microsecond)
					if r, err := st.Next(ctx); err == nil {
						s.take(t, r)
					}
					cancel()
				}
			}
			for range 6 {
				for range 4 {
					id++
					from := max(1, store.Rev()-20+int64(rng.IntN(60))) // the past, and the future
					s.from[id] = from
					require.NoError(t, st.Watch(t.Context(), watch.Request{ID: id, Key: []byte("k"), StartRev: from, Progress: true}))
				}
				for range rng.IntN(30) { // both apply the same
					require.Equal(t, put(leader, "k"), put(store, "k"))
					if rng.IntN(3) == 0 {
						read(3)
						st.RequestProgress()
						st.Tick()
					}
				}
				for range rng.IntN(60) { // the member is cut off
					put(leader, "k")
				}
				path := filepath.Join(t.TempDir(), "copy")
				copyStore(t, leader, path)
				be, err := backend.Open(backend.Config{Path: path, NoSync: true, InitialMmapBytes: 1 << 30})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, be.Close()) })
				require.NoError(t, store.Restore(be, func([]byte, int64) {}))
				require.Equal(t, leader.Rev(), store.Rev())
				read(rng.IntN(20))
				st.RequestProgress()
			}
			for range 60 { // beyond every start
				put(store, "k")
			}
			caught := func() bool {
				for i := int64(1); i <= id; i++ {
					if s.upTo[i] < store.Rev() {
						return false
					}
				}
				return true
			}
			for !caught() {
				s.take(t, next(t, st))
			}
			for i := int64(1); i <= id; i++ {
				want := ""
				for rev := max(2, s.from[i]); rev <= store.Rev(); rev++ {
					want += describe("k", rev, false) + "\n"
				}
				require.Equal(t, want, s.events[i], "watcher %d from %d: every event, once, in order", i, s.from[i])
			}
		})
	}
}

// TestOneResponsePerOperation watches transactions of many keys, and of many bytes, from every place that events come from: the
// events of one are in one response.
func TestOneResponsePerOperation(t *testing.T) {
	l := newLife(t)
	const keys, txns = 300, 12
	write := func() {
		for i := range txns {
			w := l.store.Write()
			for k := range keys {
				value := []byte("v")
				if i%3 == 0 {
					value = make([]byte, 5000) // more than a piece of history
				}
				w.Put(fmt.Appendf(nil, "k%03d", k), value, 0)
			}
			w.End()
			if i%4 != 3 { // several come at once
				l.store.Publish()
			}
		}
		l.store.Publish()
	}
	read := func(st *watch.Stream, from int64, what string) {
		t.Helper()
		for from <= l.store.Rev() {
			r := next(t, st)
			require.NotEmpty(t, r.Events)
			require.Zero(t, len(r.Events)%keys, "%s: a part of a transaction", what)
			for i, ev := range r.Events {
				require.Equal(t, from+int64(i/keys), ev.Main)
				require.Equal(t, fmt.Sprintf("k%03d", i%keys), string(ev.Key))
			}
			from += int64(len(r.Events) / keys)
		}
	}
	watching := func(from int64) *watch.Stream {
		st := l.hub.NewStream()
		t.Cleanup(st.Close)
		require.NoError(t, st.Watch(t.Context(), watch.Request{Key: []byte("k"), End: []byte("l"), StartRev: from}))
		require.True(t, next(t, st).Created)
		return st
	}
	st := watching(2)
	write()
	read(st, 2, "as it happens")
	read(watching(2), 2, "from memory")
	read(watching(7), 7, "from memory, from the middle")
	l.restart()
	read(watching(2), 2, "from the file")
	read(watching(5), 5, "from the file, from the middle")
}
