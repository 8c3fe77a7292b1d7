package integrity

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/peers"
)

// fakeStore is a store whose sum at a revision is the revision and a constant: of members that agree, the same one.
type fakeStore struct {
	mu     sync.Mutex
	ranges mvcc.SumRange
	salt   uint64
}

func (s *fakeStore) Sums() mvcc.SumRange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ranges
}

func (s *fakeStore) Sum(rev, compact int64) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := rev >= s.ranges.First && rev <= s.ranges.Last && slices.Contains(s.ranges.Compactions, compact)
	return uint64(rev) + s.salt, ok
}

func (s *fakeStore) set(f func(s *fakeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// world is some members without a network between them.
type world struct {
	t       *testing.T
	dir     string
	members *membership.Cluster
	ids     []uint64
	nodes   map[uint64]*node
	strange map[uint64]http.Handler // members of another kind
	down    map[uint64]bool
}

type node struct {
	store     *fakeStore
	checker   *Checker
	logs      *observer.ObservedLogs
	on        []bool // what Quarantined was told
	strangers atomic.Int64
	stop      func()
}

// RoundTrip calls the handler of the member that a URL names.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	for _, m := range w.members.Members() {
		if !strings.Contains(m.PeerURLs[0], r.URL.Host) || w.down[m.ID] {
			continue
		}
		h := w.strange[m.ID]
		if h == nil {
			h = w.nodes[m.ID].checker.Handler()
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		return rec.Result(), nil
	}
	return nil, fmt.Errorf("nobody listens at %s", r.URL)
}

func newWorld(t *testing.T, size int) *world {
	w := &world{t: t, dir: t.TempDir(), nodes: map[uint64]*node{}, strange: map[uint64]http.Handler{}, down: map[uint64]bool{}}
	var urls []string
	for i := range size {
		urls = append(urls, fmt.Sprintf("m%d=http://host%d:2380", i, i))
	}
	var err error
	w.members, err = membership.NewFromInitialCluster(membership.Config{Logger: zap.NewNop()}, "token", strings.Join(urls, ","))
	require.NoError(t, err)
	for _, m := range w.members.Members() {
		w.ids = append(w.ids, m.ID)
	}
	for _, id := range w.ids {
		w.start(id)
	}
	return w
}

func (w *world) start(id uint64) {
	core, logs := observer.New(zap.InfoLevel)
	n := &node{store: &fakeStore{ranges: mvcc.SumRange{First: 1, Last: 10, Compactions: []int64{-1}}}, logs: logs}
	if old := w.nodes[id]; old != nil {
		n.store = old.store
	}
	n.checker = New(Config{
		MemberID: id, Members: w.members, Store: n.store, Interval: time.Second, Timeout: time.Second, Peers: &http.Client{Transport: w},
		Quarantined: func(on bool) { n.on = append(n.on, on) }, Stranger: func() { n.strangers.Add(1) }, FS: vfs.OS, Marker: filepath.Join(w.dir, fmt.Sprint(id)), Clock: clock.Real, Logger: zap.New(core),
	})
	w.nodes[id] = n
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.checker.Run(ctx)
	}()
	n.stop = func() { cancel(); <-done }
}

func (w *world) end() {
	for _, n := range w.nodes {
		n.stop()
	}
}

// later lets some rounds pass.
func (w *world) later() {
	time.Sleep(10 * time.Second)
	synctest.Wait()
}

func (w *world) quarantined() (ids []int) {
	for i, id := range w.ids {
		if w.nodes[id].checker.Quarantined() {
			ids = append(ids, i)
		}
	}
	return ids
}

func inWorld(t *testing.T, size int, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, size)
		defer w.end()
		w.later()
		require.Empty(t, w.quarantined())
		f(w)
	})
}

func TestQuarantineComesAndGoes(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		victim := w.nodes[w.ids[1]]
		victim.store.set(func(s *fakeStore) { s.salt = 5 })
		w.later()
		require.Equal(t, []int{1}, w.quarantined())
		require.Len(t, victim.logs.FilterMessageSnippet("it serves no data").All(), 1)
		require.Len(t, w.nodes[w.ids[0]].logs.FilterMessageSnippet("other data than the majority").All(), 1, "once, not every second")
		require.Contains(t, victim.checker.Trouble(), "refetch")
		require.Empty(t, w.nodes[w.ids[0]].checker.Trouble())

		victim.stop()
		w.start(w.ids[1])
		require.Equal(t, []int{1}, w.quarantined(), "over a restart")
		w.nodes[w.ids[1]].store.set(func(s *fakeStore) { s.salt = 0 })
		w.later()
		require.Empty(t, w.quarantined())
		require.Equal(t, []bool{true, false}, w.nodes[w.ids[1]].on)
		w.nodes[w.ids[1]].stop()
		w.start(w.ids[1])
		require.Empty(t, w.quarantined(), "the mark is gone")
	})
}

func TestNoMajority(t *testing.T) {
	for name, c := range map[string]struct {
		size int
		set  func(w *world)
	}{
		"two members":      {2, func(w *world) {}},
		"a member of etcd": {3, func(w *world) { w.strange[w.ids[2]] = http.NotFoundHandler() }},
		"one is down":      {3, func(w *world) { w.down[w.ids[2]] = true }},
		"another version": {3, func(w *world) {
			w.strange[w.ids[2]] = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, `{"version":2,"sum":"6"}`) })
		}},
		"nonsense": {3, func(w *world) {
			w.strange[w.ids[2]] = http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(rw, strings.Repeat(`{"version":1,"first":1,"last":10,"compactions":[-1]`, 1000))
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, c.size, func(w *world) {
				c.set(w)
				w.nodes[w.ids[0]].store.set(func(s *fakeStore) { s.salt = 5 })
				w.later()
				require.Empty(t, w.quarantined())
				for _, id := range w.ids[:2] {
					require.Contains(t, w.nodes[id].checker.Trouble(), "no majority")
					require.Len(t, w.nodes[id].logs.FilterMessageSnippet("nobody knows who is right").All(), 1)
					require.Equal(t, name == "a member of etcd", w.nodes[id].strangers.Load() > 0)
				}
				w.nodes[w.ids[0]].store.set(func(s *fakeStore) { s.salt = 0 })
				w.later()
				require.Empty(t, w.nodes[w.ids[1]].checker.Trouble())
			})
		})
	}
}

// TestNothingInCommon: a member that cannot be compared is left out, the others are compared.
func TestNothingInCommon(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		w.nodes[w.ids[0]].store.set(func(s *fakeStore) { s.ranges.Compactions = nil }) // a compaction that a restart interrupted
		w.nodes[w.ids[3]].store.set(func(s *fakeStore) { s.salt = 5 })
		w.later()
		require.Equal(t, []int{3}, w.quarantined())
		w.nodes[w.ids[0]].store.set(func(s *fakeStore) { s.ranges.Compactions, s.salt = []int64{-1}, 7 })
		w.later()
		require.Equal(t, []int{0, 3}, w.quarantined())
	})
}

// TestOneGlitch: a difference that is seen once has no consequence.
func TestOneGlitch(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		for range 5 {
			w.nodes[w.ids[0]].checker.conclude(point{10, -1}, verdict{compared: 3, decided: true, wrong: w.ids[:1], right: w.ids[1:], differ: true}, nil)
			require.Empty(t, w.quarantined())
			w.later()
		}
		require.Empty(t, w.nodes[w.ids[0]].on)
	})
}

func TestTheOnlyMember(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		n := w.nodes[w.ids[0]]
		n.checker.mark(true)
		n.stop()
		w.start(w.ids[0])
		require.Equal(t, []int{0}, w.quarantined())
		w.later()
		require.Empty(t, w.quarantined())
	})
}

func TestBadQuestions(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		h := w.nodes[w.ids[0]].checker.Handler()
		id := membership.FormatID(w.members.ClusterID())
		for _, c := range []struct {
			method, query, cluster string
			want                   int
		}{
			{"GET", "?rev=1&compact=-1", id, http.StatusOK},
			{"POST", "?rev=1&compact=-1", id, http.StatusMethodNotAllowed},
			{"GET", "?rev=1&compact=-1", "1", http.StatusPreconditionFailed},
			{"GET", "?rev=1&compact=-1", "", http.StatusPreconditionFailed},
			{"GET", "?rev=x&compact=-1", id, http.StatusBadRequest},
			{"GET", "", id, http.StatusBadRequest},
			{"GET", "?rev=99999999999999999999&compact=1", id, http.StatusBadRequest},
			{"GET", "?rev=-9223372036854775808&compact=9223372036854775807", id, http.StatusOK},
		} {
			r := httptest.NewRequest(c.method, Path+c.query, nil)
			r.Header.Set(peers.ClusterIDHeader, c.cluster)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			require.Equal(t, c.want, rec.Code, "%+v", c)
		}
	})
}
