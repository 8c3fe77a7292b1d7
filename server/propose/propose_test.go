package propose

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/errdefs"
)

// log is a log that applies what it is told to apply.
type log struct {
	mu                 sync.Mutex
	committed, applied uint64
	race               func() // between two looks at the log
	proposed           [][]byte
	err                error
}

func (l *log) Propose(data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proposed = append(l.proposed, data)
	return l.err
}

func (l *log) ProposeIn(_ uint64, data []byte) error { return l.Propose(data) }

func (l *log) Committed() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.step()
	return l.committed
}

func (l *log) Applied() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.step()
	return l.applied
}

func (l *log) step() {
	if l.race != nil {
		l.race()
	}
}

var errTimedOut = errors.New("timed out")

func open(t *testing.T, l *log) *Proposer {
	p := New(Config{Log: l, MemberID: 1, MaxBytes: 1000, Timeout: time.Second, Clock: clock.Real,
		TimeoutReason: func(time.Time) error { return errTimedOut }})
	t.Cleanup(p.Close)
	return p
}

func put(value string) *pb.InternalRaftRequest {
	return &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k"), Value: []byte(value)}}
}

func TestDeliver(t *testing.T) {
	l := &log{}
	p := open(t, l)
	var res apply.Result
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { res, err = p.Do(context.Background(), put("v")) })
	require.Eventually(t, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.proposed) == 1 }, time.Second, time.Millisecond)
	r := &pb.InternalRaftRequest{}
	require.NoError(t, proto.Unmarshal(l.proposed[0], r))
	require.Nil(t, p.Take(r.Header.ID+1))
	w := p.Take(r.Header.ID)
	require.Equal(t, "v", string(w.Command.Put.Value))
	require.Nil(t, p.Take(r.Header.ID), "taken once")
	w.Deliver(apply.Result{Err: errdefs.ErrNoSpace})
	wg.Wait()
	require.NoError(t, err)
	require.ErrorIs(t, res.Err, errdefs.ErrNoSpace)
}

func TestRefused(t *testing.T) {
	l := &log{committed: maxGap + 1}
	p := open(t, l)
	_, err := p.Do(context.Background(), put("v"))
	require.ErrorIs(t, err, errdefs.ErrTooManyRequests)
	l.applied = 1000
	_, err = p.Do(context.Background(), put(string(make([]byte, 2000))))
	require.ErrorIs(t, err, errdefs.ErrRequestTooLarge)
	l.err = errors.New("no room")
	_, err = p.Do(context.Background(), put("v"))
	require.ErrorIs(t, err, l.err)
	require.Zero(t, p.Pending())
}

// TestLogMovesOnBetweenLooks has the log commit and apply between any two looks at it: the gap never seems huge.
func TestLogMovesOnBetweenLooks(t *testing.T) {
	l := &log{err: errors.New("far enough")}
	l.race = func() { l.committed, l.applied = l.committed+1, l.applied+1 }
	_, err := open(t, l).Do(context.Background(), put("v"))
	require.ErrorIs(t, err, l.err)
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Log: &log{}, MemberID: 1, MaxBytes: 1000, Timeout: time.Second, Clock: clock.Real,
			TimeoutReason: func(time.Time) error { return errTimedOut }})
		_, err := p.Do(context.Background(), put("v"))
		require.ErrorIs(t, err, errTimedOut)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err = p.Do(ctx, put("v"))
		require.ErrorIs(t, err, errdefs.ErrCanceled)
		time.AfterFunc(100*time.Millisecond, p.Close)
		_, err = p.Do(context.Background(), put("v"))
		require.ErrorIs(t, err, errdefs.ErrStopped)
	})
}

func TestIDsAreUnique(t *testing.T) {
	now := time.Now()
	a, b := NewIDs(1, now), NewIDs(2, now)
	seen := map[uint64]bool{}
	for range 1000 {
		for _, g := range []*IDs{a, b} {
			id := g.Next()
			require.False(t, seen[id])
			seen[id] = true
		}
	}
}
