package cache

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keelson-io/keelson/internal/clock"
)

// store is a store of a few keys, and what it was at every revision.
type store struct {
	rev  int64
	kvs  map[string]int64
	then map[int64]map[string]int64
}

func (s *store) answer(r *pb.RangeRequest) *pb.RangeResponse {
	state := s.kvs
	if r.Revision > 0 {
		state = s.then[r.Revision]
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: s.rev}}
	for k, rev := range state {
		if in(k, string(r.Key), string(r.RangeEnd)) {
			resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: []byte(k), ModRevision: rev})
		}
	}
	slices.SortFunc(resp.Kvs, func(a, b *mvccpb.KeyValue) int { return slices.Compare(a.Key, b.Key) })
	return resp
}

func in(k, begin, end string) bool {
	switch end {
	case "":
		return k == begin
	case "\x00":
		return k >= begin
	}
	return k >= begin && k < end
}

func (s *store) write(key, end string) {
	s.rev++
	next := map[string]int64{}
	for k, v := range s.kvs {
		if end == "" || !in(k, key, end) {
			next[k] = v
		}
	}
	if end == "" {
		next[key] = s.rev
	}
	s.kvs, s.then[s.rev] = next, next
}

// TestModel reads and writes at random; readers and writers overlap. All writes pass by, so that every answer must be that of the
// moment, or of a later moment than the reader's beginning.
func TestModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func() (string, string) {
		begin := fmt.Sprint("k", rnd.IntN(6))
		switch rnd.IntN(4) {
		case 0:
			return begin, fmt.Sprint("k", rnd.IntN(7))
		case 1:
			return begin, "\x00"
		}
		return begin, ""
	}
	hits := 0
	for range 200 {
		c, s := New(clock.Real), &store{kvs: map[string]int64{}, then: map[int64]map[string]int64{}}
		type flight struct {
			k     Key
			r     *pb.RangeRequest
			resp  *pb.RangeResponse
			begun uint64
		}
		var flights []flight
		for range 200 {
			begin, end := pick()
			switch rnd.IntN(5) {
			case 0:
				s.write(begin, end)
				c.Wrote([]byte(begin), []byte(end), s.rev)
			case 1: // an answer arrives
				if len(flights) > 0 {
					i := rnd.IntN(len(flights))
					f := flights[i]
					c.Add(f.k, f.r, f.resp, f.begun)
					flights = slices.Delete(flights, i, i+1)
				}
			default:
				r := &pb.RangeRequest{Key: []byte(begin), RangeEnd: []byte(end), Serializable: true}
				if s.rev > 0 && rnd.IntN(4) == 0 {
					r.Revision = 1 + rnd.Int64N(s.rev)
				}
				k := KeyOf("", r)
				if got, _ := c.Get(k, r); got != nil {
					hits++
					require.Equal(t, fmt.Sprint(s.answer(r).Kvs), fmt.Sprint(got.Kvs), "%v at %d", r, s.rev)
					continue
				}
				flights = append(flights, flight{k, r, s.answer(r), c.Begin()})
			}
		}
	}
	require.Greater(t, hits, 500)
}

func response(rev int64) *pb.RangeResponse {
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: rev}}
}

func TestIdentities(t *testing.T) {
	c := New(clock.Real)
	r := &pb.RangeRequest{Key: []byte("a"), Serializable: true}
	c.Add(KeyOf("alice", r), r, response(1), c.Begin())
	got, _ := c.Get(KeyOf("bob", r), r)
	require.Nil(t, got)
	r.Serializable = false
	got, _ = c.Get(KeyOf("alice", r), r)
	require.NotNil(t, got, "what was read linearizably is good for serializable reads, too")
	c.Clear()
	require.Zero(t, c.Len())
	require.Empty(t, c.points)
}

// TestLagging refuses answers of members that have not got a write that was seen.
func TestLagging(t *testing.T) {
	c := New(clock.Real)
	r := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), Serializable: true}
	c.Wrote([]byte("b"), nil, 7)
	c.Add(KeyOf("", r), r, response(6), c.Begin())
	require.Zero(t, c.Len())
	c.Add(KeyOf("", r), r, response(7), c.Begin())
	require.Equal(t, 1, c.Len())
	c.Wrote([]byte("c"), nil, 8)
	require.Equal(t, 1, c.Len(), "c is not in the range")
	begun := c.Begin()
	for i := range maxWrites + 1 {
		c.Wrote([]byte("x"), nil, int64(9+i))
	}
	c.Clear()
	c.Add(KeyOf("", r), r, response(1000), begun)
	require.Zero(t, c.Len(), "nobody knows any more what has passed by since")
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(clock.Real)
		for i := range MaxEntries + 10 {
			r := &pb.RangeRequest{Key: []byte(fmt.Sprint(i)), Serializable: true}
			c.Add(KeyOf("", r), r, response(1), c.Begin())
		}
		require.Equal(t, MaxEntries, c.Len())
		first, last := &pb.RangeRequest{Key: []byte("0")}, &pb.RangeRequest{Key: []byte(fmt.Sprint(MaxEntries))}
		got, _ := c.Get(KeyOf("", first), first)
		require.Nil(t, got)
		got, _ = c.Get(KeyOf("", last), last)
		require.NotNil(t, got)
		time.Sleep(MaxAge + 1)
		got, _ = c.Get(KeyOf("", last), last)
		require.Nil(t, got, "too old")

		c.Clear()
		for i := range 40 {
			r := &pb.RangeRequest{Key: []byte(fmt.Sprint(i))}
			c.Add(KeyOf("", r), r, &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Value: make([]byte, 3<<20)}}}, c.Begin())
		}
		require.Equal(t, 21, c.Len())
		require.LessOrEqual(t, c.bytes, MaxBytes)
		r := &pb.RangeRequest{Key: []byte("huge")}
		c.Add(KeyOf("", r), r, &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Value: make([]byte, MaxBytes/16)}}}, c.Begin())
		require.Equal(t, 21, c.Len())
	})
}

func TestCompact(t *testing.T) {
	c := New(clock.Real)
	for rev := range int64(5) {
		r := &pb.RangeRequest{Key: []byte("a"), Revision: rev, Serializable: true}
		c.Add(KeyOf("", r), r, response(9), c.Begin())
	}
	c.Compact(3)
	require.Equal(t, 3, c.Len())
	for rev, compacted := range map[int64]bool{0: false, 1: true, 2: true, 3: false, 4: false} {
		r := &pb.RangeRequest{Key: []byte("a"), Revision: rev, Serializable: true}
		got, gone := c.Get(KeyOf("", r), r)
		require.Equal(t, compacted, gone, rev)
		require.Equal(t, compacted, got == nil, rev)
		if compacted {
			c.Add(KeyOf("", r), r, response(9), c.Begin())
		}
	}
	require.Equal(t, 3, c.Len())
}
