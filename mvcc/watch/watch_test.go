package watch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, logBytes int64) (*mvcc.Store, *watch.Hub) {
	be, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db"), NoSync: true, InitialMmapBytes: 1 << 30, BatchInterval: time.Millisecond})
	require.NoError(t, err)
	s, err := mvcc.Open(be, mvcc.Config{EventLogBytes: logBytes, CompactionSleep: time.Microsecond}, func([]byte, int64) {})
	require.NoError(t, err)
	h := watch.NewHub(s.Log(), s, watch.Config{})
	t.Cleanup(func() {
		h.Close()
		s.Close()
		require.NoError(t, be.Close())
	})
	return s, h
}

func put(s *mvcc.Store, keys ...string) int64 {
	w := s.Write()
	for _, k := range keys {
		w.Put([]byte(k), []byte("v"), 0)
	}
	w.End()
	s.Publish()
	return w.Rev()
}

func next(t testing.TB, st *watch.Stream) watch.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := st.Next(ctx)
	require.NoError(t, err)
	return r
}

func quiet(t testing.TB, st *watch.Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	r, err := st.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "%+v", r)
}

// told is what a watcher of the model test was told.
type told struct {
	req      watch.Request
	from     int64
	events   []string
	canceled int64 // compact revision
	last     int64
}

func describe(key string, main int64, deleted bool) string {
	return fmt.Sprintf("%d %s %v", main, key, deleted)
}

// change is what happened, as the model knows it.
type change struct {
	key     string
	main    int64
	deleted bool
}

func (c *change) wanted(r *watch.Request) bool {
	if c.deleted && r.NoDelete || !c.deleted && r.NoPut {
		return false
	}
	switch key := string(r.Key); {
	case r.End == nil:
		return c.key == key
	case string(r.End) == "\x00":
		return c.key >= key
	default:
		return c.key >= key && c.key < string(r.End)
	}
}

// TestModel has streams with readers of different speed watch a store that is written to and compacted, with an event log
// that holds little, and compares what every watcher was told with all that happened.
func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 5))
			store, hub := open(t, 60_000)
			var mu sync.Mutex
			var all []change
			var streams []*stream
			for i := range 6 {
				streams = append(streams, newStream(t, hub, time.Duration(i%3)*200*time.Microsecond))
			}
			live := map[string]bool{}
			for round := range 1500 {
				if round%20 == 0 && round < 1200 {
					streams[rng.IntN(len(streams))].watch(t, rng, store.Rev())
				}
				main := store.Rev() + 1
				w := store.Write()
				for range 1 + rng.IntN(8) {
					key := fmt.Sprintf("%03d", rng.IntN(200))
					if live[key] && rng.IntN(3) == 0 {
						w.DeleteRange([]byte(key), nil)
						live[key] = false
					} else if !live[key] || rng.IntN(2) == 0 {
						w.Put([]byte(key), []byte("some value"), 0)
						live[key] = true
					} else {
						continue
					}
					all = append(all, change{key, main, !live[key]})
				}
				w.End()
				if rng.IntN(300) == 0 {
					_, _ = store.Compact(store.Rev() - int64(rng.IntN(200)))
				}
				store.Publish()
				if rng.IntN(4) == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
			for _, s := range streams {
				s.finish(t, store.Rev())
			}
			mu.Lock()
			defer mu.Unlock()
			for _, s := range streams {
				for id, w := range s.watchers {
					var want []string
					for _, c := range all {
						if c.main >= w.from && c.wanted(&w.req) {
							want = append(want, describe(c.key, c.main, c.deleted))
						}
					}
					if w.canceled > 0 {
						require.Less(t, len(w.events), len(want)+1)
						want = want[:len(w.events)]
						require.Less(t, w.last, w.canceled)
					}
					if len(want) == 0 {
						want = nil
					}
					require.Equal(t, want, w.events, "watcher %d from %d", id, w.from)
				}
			}
		})
	}
}

// stream is a watch stream and its reader.
type stream struct {
	st       *watch.Stream
	mu       sync.Mutex
	watchers map[int64]*told
	ids      int64
	progress int64
	cancel   context.CancelFunc
	done     chan struct{}
}

func newStream(t *testing.T, hub *watch.Hub, pause time.Duration) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{st: hub.NewStream(), watchers: map[int64]*told{}, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for {
			r, err := s.st.Next(ctx)
			if err != nil {
				return
			}
			s.take(t, r)
			time.Sleep(pause)
		}
	}()
	return s
}

func (s *stream) take(t *testing.T, r watch.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.ID == watch.InvalidID {
		s.progress = max(s.progress, r.Rev)
		return
	}
	w := s.watchers[r.ID]
	if r.Created {
		w.from = w.req.StartRev
		if w.from == 0 {
			w.from = r.Rev + 1
		}
		return
	}
	if w.from == 0 {
		t.Errorf("watcher %d is told something before it was created", r.ID)
	}
	if r.Canceled {
		w.canceled = r.CompactRev
		return
	}
	for i, ev := range r.Events {
		if i == 0 && ev.Main == w.last {
			t.Errorf("revision %d came in two responses", ev.Main)
		}
		if ev.Main > r.Rev {
			t.Errorf("an event of revision %d in a response of revision %d", ev.Main, r.Rev)
		}
		w.last = ev.Main
		w.events = append(w.events, describe(string(ev.Key), ev.Main, ev.Delete))
	}
}

func (s *stream) watch(t *testing.T, rng *rand.Rand, rev int64) {
	s.ids++
	req := watch.Request{ID: s.ids, Key: fmt.Appendf(nil, "%03d", rng.IntN(200)), NoPut: rng.IntN(6) == 0, NoDelete: rng.IntN(6) == 0}
	switch rng.IntN(3) {
	case 0:
		req.End = []byte{0}
	case 1:
		req.End = append([]byte(nil), req.Key[:1]...)
		req.End[0]++
	}
	if rng.IntN(2) == 0 {
		req.StartRev = max(1, rev-300+int64(rng.IntN(350)))
	}
	s.mu.Lock()
	s.watchers[req.ID] = &told{req: req}
	s.mu.Unlock()
	require.NoError(t, s.st.Watch(context.Background(), req))
}

// finish waits until the stream has reported progress up to a revision.
func (s *stream) finish(t *testing.T, rev int64) {
	s.st.RequestProgress()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		left := 0
		for _, w := range s.watchers {
			if w.canceled == 0 {
				left++
			}
		}
		return s.progress >= rev || left == 0
	}, 20*time.Second, time.Millisecond, "no progress up to %d", rev)
	s.st.Close()
	s.cancel()
	<-s.done
}

func TestControl(t *testing.T) {
	store, hub := open(t, 1<<20)
	ctx := context.Background()
	st := hub.NewStream()
	defer st.Close()
	require.NoError(t, st.Watch(ctx, watch.Request{Key: []byte("b"), End: []byte("a")}))
	require.Equal(t, watch.Response{ID: -1, Rev: 1, Created: true, Canceled: true, Reason: watch.ErrEmptyRange.Error()}, next(t, st))
	require.NoError(t, st.Watch(ctx, watch.Request{ID: 1, Key: []byte("a")}))
	require.NoError(t, st.Watch(ctx, watch.Request{ID: 1, Key: []byte("a")}))
	require.EqualValues(t, 1, next(t, st).ID)
	require.Equal(t, watch.ErrDuplicateID.Error(), next(t, st).Reason)
	for want := range 3 {
		require.NoError(t, st.Watch(ctx, watch.Request{Key: []byte("x")}))
		require.EqualValues(t, []int64{0, 2, 3}[want], next(t, st).ID, "ids that are taken are left out")
	}
	require.ErrorIs(t, st.Cancel(ctx, 99), watch.ErrNotFound)
	put(store, "a")
	require.NoError(t, st.Cancel(ctx, 1))
	for r := next(t, st); !r.Canceled; r = next(t, st) {
		require.Len(t, r.Events, 1)
	}
	put(store, "a")
	quiet(t, st)
}

func TestProgress(t *testing.T) {
	store, hub := open(t, 1<<20)
	ctx := context.Background()
	st := hub.NewStream()
	defer st.Close()
	st.RequestProgress()
	quiet(t, st) // nobody watches
	require.NoError(t, st.Watch(ctx, watch.Request{Key: []byte("a"), Progress: true}))
	require.True(t, next(t, st).Created)
	rev := put(store, "other")
	st.RequestProgress()
	require.Equal(t, watch.Response{ID: -1, Rev: rev}, next(t, st))
	st.Tick()
	require.Equal(t, watch.Response{ID: 0, Rev: rev}, next(t, st))
	put(store, "a")
	require.Len(t, next(t, st).Events, 1)
	st.Tick()
	quiet(t, st) // it was told something just now
	st.Tick()
	require.EqualValues(t, 0, next(t, st).ID)

	require.NoError(t, st.Watch(ctx, watch.Request{Key: []byte("a"), StartRev: 100}))
	require.True(t, next(t, st).Created)
	st.RequestProgress()
	quiet(t, st) // one begins in the future
}

func TestCompacted(t *testing.T) {
	store, hub := open(t, 1<<20)
	for range 10 {
		put(store, "a")
	}
	_, err := store.Compact(8)
	require.NoError(t, err)
	store.Publish()
	st := hub.NewStream()
	defer st.Close()
	require.NoError(t, st.Watch(context.Background(), watch.Request{Key: []byte("a"), StartRev: 7}))
	require.True(t, next(t, st).Created)
	require.Equal(t, watch.Response{ID: 0, Canceled: true, CompactRev: 8}, next(t, st))
	require.NoError(t, st.Watch(context.Background(), watch.Request{Key: []byte("a"), StartRev: 8}))
	require.True(t, next(t, st).Created)
	require.Len(t, next(t, st).Events, 4)
}

// TestRestore replaces the state by a newer one: watchers go on from history.
func TestRestore(t *testing.T) {
	ahead, _ := open(t, 1<<20)
	store, hub := open(t, 1<<20)
	st := hub.NewStream()
	defer st.Close()
	require.NoError(t, st.Watch(context.Background(), watch.Request{Key: []byte("a")}))
	require.True(t, next(t, st).Created)
	put(store, "a")
	require.Len(t, next(t, st).Events, 1)
	for range 5 {
		put(ahead, "a")
	}
	path := filepath.Join(t.TempDir(), "copy")
	copyStore(t, ahead, path)
	be, err := backend.Open(backend.Config{Path: path, NoSync: true, InitialMmapBytes: 1 << 30})
	require.NoError(t, err)
	require.NoError(t, store.Restore(be, func([]byte, int64) {}))
	t.Cleanup(func() { require.NoError(t, be.Close()) })
	var got []int64
	for len(got) < 4 {
		for _, ev := range next(t, st).Events {
			got = append(got, ev.Main)
		}
	}
	require.Equal(t, []int64{3, 4, 5, 6}, got)
	put(store, "a")
	require.EqualValues(t, 7, next(t, st).Events[0].Main)
}

func copyStore(t *testing.T, s *mvcc.Store, path string) {
	be, err := backend.Open(backend.Config{Path: path, NoSync: true, InitialMmapBytes: 1 << 30})
	require.NoError(t, err)
	evs, _, err := s.Events([]byte{0}, []byte{0}, 1, s.Rev(), 1<<30)
	require.NoError(t, err)
	for _, ev := range evs {
		be.AppendRev(backend.Rev{Main: ev.Main, Sub: ev.Sub}, ev.Delete, ev.KV)
	}
	be.Publish(nil)
	require.NoError(t, be.Close())
}

// BenchmarkFanOut measures one event for a thousand watchers of one range, on ten streams.
func BenchmarkFanOut(b *testing.B) {
	store, hub := open(b, 32<<20)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 10 {
		st := hub.NewStream()
		for range 100 {
			require.NoError(b, st.Watch(ctx, watch.Request{Key: []byte("a"), End: []byte("b")}))
			next(b, st)
		}
		wg.Go(func() {
			for n := 0; n < b.N*100; {
				r, err := st.Next(ctx)
				if err != nil {
					return
				}
				n += len(r.Events)
			}
			st.Close()
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		put(store, "a")
	}
	wg.Wait()
	cancel()
}
