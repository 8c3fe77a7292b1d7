package server_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/servertest"
)

// The tests named after etcd's issues are listed in docs/contributing/regressions.md.

// TestEtcd20650PartitionAndSnapshot watches at a member that is cut off, falls behind, and gets the state of the leader,
// while a client of it defragments all the time. The revisions on the stream never fall, every event comes once, and nothing is
// lost, also after a restart.
func TestEtcd20650PartitionAndSnapshot(t *testing.T) {
	c := servertest.Start(t, 3, append(servertest.Quick(), "--snapshot-count=50", "--snapshot-catchup-entries=5")...)
	lead := leader(t, c)
	others := without(c.Members, lead)
	late, ctx := others[0], deadline(t)
	s, d := dial(c, lead), dial(c, late)

	var wg sync.WaitGroup
	busy, stop := context.WithCancel(ctx)
	wg.Go(func() {
		for busy.Err() == nil {
			_, _ = d.Defragment(busy, &pb.DefragmentRequest{})
		}
	})
	stream, err := pb.NewWatchClient(c.Dial(late)).Watch(busy)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 2, ProgressNotify: true,
	}}}))
	const rounds, writes = 2, 250
	told := make(chan error, 1)
	wg.Go(func() {
		next, header := int64(2), int64(0)
		for next < 2+rounds*writes {
			r, err := stream.Recv()
			if err == nil && r.Header.Revision < header {
				err = fmt.Errorf("the revision of the stream fell from %d to %d", header, r.Header.Revision)
			}
			if err == nil && r.Canceled {
				err = errors.New(r.CancelReason)
			}
			for _, ev := range r.GetEvents() {
				if err == nil && ev.Kv.ModRevision != next {
					err = fmt.Errorf("event %d instead of %d", ev.Kv.ModRevision, next)
				}
				next++
			}
			if err != nil {
				told <- err
				return
			}
			header = r.Header.Revision
		}
		told <- nil
	})
	for round := range int64(rounds) {
		for _, m := range without(c.Members, late) {
			m.Cut(late)
		}
		for i := range writes {
			_, err := s.Put(ctx, &pb.PutRequest{Key: fmt.Append(nil, "k", i%20), Value: make([]byte, 500)})
			require.NoError(t, err)
		}
		for _, m := range without(c.Members, late) {
			m.Mend(late)
		}
		require.Eventually(t, func() bool {
			st, err := d.Status(ctx, &pb.StatusRequest{})
			return err == nil && st.Header.Revision >= 1+(round+1)*writes
		}, time.Minute, 5*time.Millisecond)
	}
	require.NoError(t, <-told)
	_, metrics := get(t, c, late, "/metrics")
	require.True(t, regexp.MustCompile(`etcd_snap_db_save_total_duration_seconds_count [1-9]`).MatchString(metrics), "it got no snapshot")
	stop()
	wg.Wait()
	agree := func() {
		t.Helper()
		want, err := s.HashKV(ctx, &pb.HashKVRequest{})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			got, err := d.HashKV(ctx, &pb.HashKVRequest{Revision: want.Header.Revision})
			return err == nil && got.Hash == want.Hash
		}, time.Minute, 20*time.Millisecond)
	}
	agree()
	c.Stop(late)
	c.Run(late)
	c.WaitReady(late)
	agree()
	_, err = s.Put(ctx, &pb.PutRequest{Key: []byte("k")})
	require.NoError(t, err)
	agree()
}
