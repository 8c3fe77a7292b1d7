package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/backuppb"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/replica"
	"github.com/keelson-io/keelson/wal"
)

// TestTimeline compares a timeline, over its bound and a clock that goes back, with what it was told.
func TestTimeline(t *testing.T) {
	var tl timeline
	told := map[uint64]int64{}
	now := int64(0)
	for i := uint64(1); i <= 3*maxNotes; i++ {
		now += 10
		if i%1000 == 0 {
			now -= 5000
		}
		tl.add(replica.Position{Index: 2 * i, Revision: int64(i)}, now)
		tl.add(replica.Position{Index: 2 * i}, now+1) // nothing new
		told[2*i] = now
	}
	require.LessOrEqual(t, len(tl.notes), maxNotes)
	before := note{}
	for i, n := range tl.notes {
		require.GreaterOrEqual(t, n.time, told[n.Index], "not before it was so")
		require.EqualValues(t, n.Index/2, n.Revision)
		if i > 0 {
			require.Greater(t, n.Index, before.Index)
			require.GreaterOrEqual(t, n.time, before.time)
		}
		before = n
	}
	for index := uint64(1); index <= 6*maxNotes; index += 7 {
		n, ok := tl.at(index)
		require.True(t, ok)
		require.GreaterOrEqual(t, n.Index, index)
	}
	_, ok := tl.at(6*maxNotes + 1)
	require.False(t, ok)
}

// member is a log that grows.
type member struct {
	mu      sync.Mutex
	first   uint64 // what is before is released
	terms   []uint64
	applied chan struct{}
	denied  error
	catchUp []func() error // what the next calls do
}

func newMember() *member { return &member{first: 1, applied: make(chan struct{})} }

func (m *member) apply(n int, term uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range n {
		m.terms = append(m.terms, term)
	}
	close(m.applied)
	m.applied = make(chan struct{})
}

func (m *member) position() replica.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return replica.Position{Index: uint64(len(m.terms)), Revision: int64(len(m.terms)) + 1}
}

func (m *member) wait(ctx context.Context, index uint64) error {
	for {
		m.mu.Lock()
		n, c := uint64(len(m.terms)), m.applied
		m.mu.Unlock()
		if n >= index {
			return nil
		}
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *member) entries(_ context.Context, lo, hi, _ uint64) ([]*raftpb.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if lo < m.first {
		return nil, fmt.Errorf("entry %d: %w", lo, wal.ErrReleased)
	}
	var out []*raftpb.Entry
	for i := lo; i < hi && len(out) < 4; i++ {
		out = append(out, &raftpb.Entry{Index: proto.Uint64(i), Term: proto.Uint64(m.terms[i-1]), Data: fmt.Append(nil, i)})
	}
	return out, nil
}

// stream is a caller that reads.
type stream struct {
	grpc.ServerStream
	ctx  context.Context
	sent chan *backuppb.LogResponse
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(r *backuppb.LogResponse) error {
	select {
	case s.sent <- r:
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func newService(m *member) *Service {
	return New(Config{
		ClusterID: 1, MemberID: 2, MinLeaseTTL: 3, Position: m.position, WaitApplied: m.wait, Entries: m.entries,
		CatchUp: func(context.Context) error {
			f := m.catchUp[0]
			m.catchUp = m.catchUp[1:]
			return f()
		},
		Allow: func(context.Context) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.denied
		},
		Clock: clock.Real, Registerer: prometheus.NewRegistry(),
	})
}

// call makes a call that ends with cancel, and returns how it ended.
func call(ctx context.Context, s *Service, r *backuppb.LogRequest) (sent chan *backuppb.LogResponse, ended chan error) {
	sent, ended = make(chan *backuppb.LogResponse), make(chan error, 1)
	go func() { ended <- s.Log(r, &stream{ctx: ctx, sent: sent}) }()
	return sent, ended
}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMember()
		s := newService(m)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = s.Run(ctx) }()
		start := time.Now()
		m.apply(10, 1)
		time.Sleep(1500 * time.Millisecond)
		m.apply(3, 1)
		time.Sleep(time.Hour)
		sent, ended := call(ctx, s, &backuppb.LogRequest{FromIndex: 1})
		first := <-sent
		require.Nil(t, first.Chunk)
		require.EqualValues(t, []uint64{1, 13, 1, 2}, []uint64{first.NextIndex, first.AppliedIndex, first.ClusterId, first.MemberId})
		require.EqualValues(t, 3, first.MinLeaseTtl)
		next := uint64(1)
		read := func(upTo uint64) (times []time.Duration, revs []int64) {
			for next <= upTo {
				r := <-sent
				for _, e := range r.Chunk.Entries {
					require.Equal(t, next, e.GetIndex())
					next++
				}
				require.Equal(t, next, r.NextIndex)
				times = append(times, time.Unix(0, r.Chunk.TimeUnixNano).Sub(start))
				revs = append(revs, r.Chunk.Revision)
			}
			return times, revs
		}
		times, revs := read(13)
		require.Equal(t, []int64{0, 0, 11, 14}, revs, "known where a note is")
		require.Equal(t, []time.Duration{time.Second, time.Second, time.Second, 2 * time.Second}, times, "as noted, an hour ago")
		time.Sleep(time.Minute)
		at := time.Since(start)
		m.apply(2, 2)
		times, revs = read(15)
		require.Equal(t, []int64{16}, revs)
		require.Equal(t, []time.Duration{at}, times, "at once")

		m.mu.Lock()
		m.denied = status.Error(codes.PermissionDenied, "not any more")
		m.mu.Unlock()
		m.apply(1, 2)
		require.Equal(t, codes.PermissionDenied, status.Code(<-ended), "rights are asked for again")
		cancel()
		synctest.Wait()
	})
}

func TestBegin(t *testing.T) {
	m := newMember()
	m.apply(10, 1)
	m.apply(10, 2)
	m.first = 5
	m.catchUp = []func() error{
		func() error { return errors.New("no leader") },
		func() error { m.apply(3, 2); return nil },
		func() error { return nil },
	}
	s := newService(m)
	crc := func(index uint64) *uint32 { return proto.Uint32(Checksum(&raftpb.Entry{Data: fmt.Append(nil, index)})) }
	for _, c := range []struct {
		r    *backuppb.LogRequest
		next uint64
		code codes.Code
	}{
		{&backuppb.LogRequest{}, 21, codes.OK},
		{&backuppb.LogRequest{FromIndex: 21, PrevTerm: 2, PrevCrc: crc(20)}, 21, codes.OK},
		{&backuppb.LogRequest{FromIndex: 6}, 6, codes.OK},
		{&backuppb.LogRequest{FromIndex: 1}, 1, codes.OK}, // what comes first shows whether it is there
		{&backuppb.LogRequest{FromIndex: 5}, 0, codes.OutOfRange},
		{&backuppb.LogRequest{FromIndex: 22}, 0, codes.Aborted}, // there is no leader
		{&backuppb.LogRequest{FromIndex: 23}, 23, codes.OK},     // it catches up
		{&backuppb.LogRequest{FromIndex: 26}, 0, codes.FailedPrecondition},
		{&backuppb.LogRequest{FromIndex: 15, PrevTerm: 1}, 0, codes.FailedPrecondition},
		{&backuppb.LogRequest{FromIndex: 15, PrevTerm: 2, PrevCrc: crc(20)}, 0, codes.FailedPrecondition},
	} {
		next, err := s.begin(t.Context(), c.r)
		require.Equal(t, c.code, status.Code(err), c.r)
		require.Equal(t, c.next, next, c.r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent, ended := call(ctx, s, &backuppb.LogRequest{FromIndex: 1})
	<-sent
	require.Equal(t, codes.OutOfRange, status.Code(<-ended))
	m.denied = errors.New("no")
	_, ended = call(ctx, s, &backuppb.LogRequest{})
	require.EqualError(t, <-ended, "no")
}
