package leasing

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/server/errdefs"
)

const (
	fresh    = 100 * time.Millisecond
	election = time.Second
)

// fakeMember has leases 1 to 3, and says what a test wants of consensus.
type fakeMember struct {
	*Service
	table    *lease.Table
	leads    atomic.Bool
	leader   atomic.Value // URL, "" for none
	changed  atomic.Value // chan struct{}, closed when there is another leader
	rounds   atomic.Int64 // questions to the cluster
	confirm  func() error
	catchUps atomic.Int64
	catchUp  func()
}

func newFake(t *testing.T, leads bool) *fakeMember {
	m := &fakeMember{table: lease.NewTable(lease.Config{MinTTL: 1, Extend: election})}
	for id := lease.ID(1); id <= 3; id++ {
		_, err := m.table.Grant(id, 10)
		require.NoError(t, err)
	}
	m.confirm, m.catchUp = func() error { return nil }, func() {}
	m.leader.Store("")
	m.changed.Store(make(chan struct{}))
	if leads {
		m.lead(1)
	}
	m.Service = New(Config{
		Table: m.table, IsLeader: m.leads.Load,
		Confirm: func(context.Context) error { m.rounds.Add(1); return m.confirm() },
		Fresh:   fresh,
		CatchUp: func(context.Context) error { m.catchUps.Add(1); m.catchUp(); return nil },
		LeaderURLs: func() []string {
			if u := m.leader.Load().(string); u != "" {
				return []string{u}
			}
			return nil
		},
		LeaderChanged: func() <-chan struct{} { return m.changed.Load().(chan struct{}) },
		Remote:        &Remote{Client: http.DefaultClient}, Timeout: 2 * time.Second, Election: election, Clock: clock.Real,
	})
	return m
}

func (m *fakeMember) lead(term uint64) {
	m.leads.Store(true)
	m.table.Leadership(term, true)
	m.table.Promote(term)
}

func (m *fakeMember) unseat(term uint64) {
	m.leads.Store(false)
	m.table.Leadership(term, false)
}

// TestConfirmedOncePerHeartbeat counts the questions to the cluster that renewals cost.
func TestConfirmedOncePerHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newFake(t, true)
		for range 5 {
			ttls, err := m.RenewAll(t.Context(), []lease.ID{1, 2, 3})
			require.NoError(t, err)
			require.Equal(t, []int64{10, 10, 10}, ttls)
			ttl, err := m.Renew(t.Context(), 1)
			require.NoError(t, err)
			require.EqualValues(t, 10, ttl)
		}
		require.EqualValues(t, 1, m.rounds.Load())
		time.Sleep(fresh + 1)
		_, err := m.RenewAll(t.Context(), []lease.ID{1})
		require.NoError(t, err)
		require.EqualValues(t, 2, m.rounds.Load())

		// An answer is as old as its question.
		m.confirm = func() error { time.Sleep(2 * fresh); return nil }
		time.Sleep(fresh + 1)
		for range 2 {
			_, err = m.Renew(t.Context(), 1)
			require.NoError(t, err)
		}
		require.EqualValues(t, 4, m.rounds.Load())
	})
}

// TestNotConfirmed renews on a member that lost its leadership, or does not know whether it did.
func TestNotConfirmed(t *testing.T) {
	m := newFake(t, true)
	m.confirm = func() error { return errors.New("no quorum") }
	_, err := m.RenewAll(t.Context(), []lease.ID{1})
	require.ErrorIs(t, err, lease.ErrNotPrimary)
	_, err = m.Renew(t.Context(), 1)
	require.ErrorIs(t, err, lease.ErrNotPrimary)

	// The question is answered by another leader.
	m = newFake(t, true)
	m.confirm = func() error { m.unseat(1); return nil }
	_, err = m.renewAllHere(t.Context(), []lease.ID{1})
	require.ErrorIs(t, err, lease.ErrNotPrimary)

	// An answer does not outlive the leadership.
	m = newFake(t, true)
	_, err = m.Renew(t.Context(), 1)
	require.NoError(t, err)
	m.unseat(1)
	require.ErrorIs(t, m.Service.confirm(t.Context()), lease.ErrNotPrimary)
}

// TestNotYetApplied renews where something is committed and not applied: a lease, its end, and the reign itself.
func TestNotYetApplied(t *testing.T) {
	m := newFake(t, true)
	m.catchUp = func() { _, _ = m.table.Grant(9, 20) }
	ttls, err := m.RenewAll(t.Context(), []lease.ID{1, 9})
	require.NoError(t, err)
	require.Equal(t, []int64{10, 20}, ttls)
	_, err = m.Renew(t.Context(), 10)
	require.ErrorIs(t, err, lease.ErrLeaseNotFound)

	m = newFake(t, true)
	m.catchUp = func() { _, _ = m.table.Revoke(1) }
	ttls, err = m.RenewAll(t.Context(), []lease.ID{1, 2})
	require.NoError(t, err)
	require.Equal(t, []int64{Pending, 10}, ttls)
	_, err = m.Renew(t.Context(), 1)
	require.ErrorIs(t, err, lease.ErrLeaseNotFound)

	m = newFake(t, false)
	m.leads.Store(true)
	m.confirm = func() error { m.catchUp = func() { m.lead(2) }; return nil } // it is committed when the cluster answers
	ttls, err = m.RenewAll(t.Context(), []lease.ID{1})
	require.NoError(t, err)
	require.Equal(t, []int64{Pending}, ttls)
	ttl, err := m.Renew(t.Context(), 1)
	require.NoError(t, err)
	require.EqualValues(t, 10, ttl)
}

// counted serves a handler and counts requests by path.
func counted(t *testing.T, h http.Handler) (url string, count func(path string) int) {
	var mu sync.Mutex
	counts := map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		counts[r.URL.Path]++
		mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		return counts[path]
	}
}

// TestGathered renews through a follower: what waits while a request is under way goes into the next one.
func TestGathered(t *testing.T) {
	leader, follower := newFake(t, true), newFake(t, false)
	hold := make(chan struct{})
	url, count := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-hold
		leader.Handler().ServeHTTP(w, r)
	}))
	follower.leader.Store(url)
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)

	var wg sync.WaitGroup
	renew := func(id lease.ID, want int64) {
		wg.Go(func() {
			ttls, err := follower.RenewAll(context.Background(), []lease.ID{id, 2})
			if err != nil || len(ttls) != 2 || ttls[0] != want || ttls[1] != 10 {
				t.Errorf("%v, %v", ttls, err)
			}
		})
	}
	renew(1, 10)
	require.Eventually(t, func() bool { return count(RenewAllPath) == 1 }, 10*time.Second, time.Millisecond)
	for i := range 20 {
		renew(lease.ID(i%3+1), 10)
	}
	renew(77, Pending)
	require.Eventually(t, func() bool {
		follower.gathered.mu.Lock()
		defer follower.gathered.mu.Unlock()
		return len(follower.gathered.waiting) == 1 && len(follower.gathered.waiting[0].ids) == 42
	}, 10*time.Second, time.Millisecond)
	release()
	wg.Wait()
	require.Equal(t, 2, count(RenewAllPath))
	require.Zero(t, count(RenewPath))
}

// TestOneByOne renews through a leader that does not know several at once.
func TestOneByOne(t *testing.T) {
	leader, follower := newFake(t, true), newFake(t, false)
	url, count := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == RenewAllPath {
			http.NotFound(w, r)
			return
		}
		leader.Handler().ServeHTTP(w, r)
	}))
	follower.leader.Store(url)
	ttls, err := follower.RenewAll(t.Context(), []lease.ID{1, 2})
	require.NoError(t, err)
	require.Equal(t, []int64{Pending, Pending}, ttls)
	ttl, err := follower.Renew(t.Context(), 1)
	require.NoError(t, err)
	require.EqualValues(t, 10, ttl)
	_, err = follower.Renew(t.Context(), 99)
	require.ErrorIs(t, err, lease.ErrLeaseNotFound)
	require.Equal(t, 2, count(RenewPath))

	resp, err := follower.TimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 3})
	require.NoError(t, err)
	require.EqualValues(t, 10, resp.GrantedTTL)
}

// TestForwardingFails asks leaders that are none, or answer nonsense, until time is up.
func TestForwardingFails(t *testing.T) {
	former := newFake(t, false)
	for name, h := range map[string]http.Handler{
		"no leader":        former.Handler(),
		"other leases":     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("\x04\x10\x07\x18\x05")) }),
		"too few":          http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		"nothing sensible": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(strings.Repeat("\xff", 40))) }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t, false)
			f.cfg.Timeout = 200 * time.Millisecond
			url, count := counted(t, h)
			f.leader.Store(url)
			_, err := f.RenewAll(t.Context(), []lease.ID{1})
			if name == "no leader" { // it does not know, and one by one it says so
				require.NoError(t, err)
				_, err = f.Renew(t.Context(), 1)
			} else {
				require.Greater(t, count(RenewAllPath), 1)
			}
			require.ErrorIs(t, err, errdefs.ErrTimeout)
		})
	}
	f := newFake(t, false)
	f.cfg.Timeout = 10 * time.Millisecond
	_, err := f.RenewAll(t.Context(), []lease.ID{1})
	require.ErrorIs(t, err, errdefs.ErrNoLeader)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.RenewAll(ctx, []lease.ID{1})
	require.ErrorIs(t, err, errdefs.ErrCanceled)
}

// FuzzRenewAll sends arbitrary bodies.
func FuzzRenewAll(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x02\x08\x01\x02\x08\x02"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x08"))
	f.Add([]byte("\x7f\x08\x01"))
	table := lease.NewTable(lease.Config{MinTTL: 1})
	table.Leadership(1, true)
	table.Promote(1)
	none := func(context.Context) error { return nil }
	s := New(Config{Table: table, Confirm: none, CatchUp: none, Clock: clock.Real})
	f.Fuzz(func(t *testing.T, body []byte) { _, _ = s.serveRenewAll(t.Context(), body) })
}
