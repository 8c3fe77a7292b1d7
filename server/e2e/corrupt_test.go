package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// TestCorruption changes a value in the database of a member while it is down. It does not start if it is to look first;
// otherwise a leader of the other kind finds out, and the cluster serves no data any more.
func TestCorruption(t *testing.T) {
	for name, kinds := range mixtures {
		for how, flags := range map[string][]string{
			"data":        {"--corrupt-check-time=500ms"},
			"compactions": {"--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=500ms"},
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				c := startCluster(t, kinds, flags...)
				lead, victim := c.Members[0], c.Members[2]
				for i := range 20 {
					putValue(t, c.on[lead], fmt.Sprintf("key-%d", i%15), fmt.Sprintf("value-%d", i))
				}
				compactNow(t, c.on[lead], 5)
				c.moveLeader(lead)
				c.agree()
				c.Stop(victim)
				falsify(t, victim, "value-18", "value-XX")
				refusesToStart(t, c, victim)
				victim.Flags = append(victim.Flags, "--election-timeout=10000") // it does not lead: then it would accuse another one
				c.launch(victim)
				id := c.id(victim)
				if how == "compactions" {
					eventually(t, func(ctx context.Context) error { return behind(ctx, c, victim, lead) }, "the victim is back")
					compactNow(t, c.on[lead], putValue(t, c.on[lead], "after", "all"))
				}
				requireAccused(t, c, id)
			})
		}
	}
}

func putValue(t *testing.T, s services, key, value string) int64 {
	t.Helper()
	r, err := s.Put(within(t, patience), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	require.NoError(t, err)
	return r.Header.Revision
}

func compactNow(t *testing.T, s services, rev int64) {
	t.Helper()
	_, err := s.Compact(within(t, patience), &pb.CompactionRequest{Revision: rev, Physical: true})
	require.NoError(t, err)
}

// falsify replaces a text, by one as long, in the stored revisions of a member that is down.
func falsify(t *testing.T, m *member, from, to string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(m.Dir, "member", "snap", "db"), 0o600, &bbolt.Options{Timeout: time.Second})
	require.NoError(t, err)
	changed := 0
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte("key")).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if bytes.Contains(v, []byte(from)) {
				changed++
				if err := tx.Bucket([]byte("key")).Put(bytes.Clone(k), bytes.ReplaceAll(v, []byte(from), []byte(to))); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	require.NoError(t, db.Close())
	require.Equal(t, 1, changed)
}

// refusesToStart starts a member that compares its data first.
func refusesToStart(t *testing.T, c *cluster, m *member) {
	t.Helper()
	flags := m.Flags
	gates := "--feature-gates=InitialCorruptCheck=true"
	m.Flags = append(slices.Clone(flags), gates)
	c.launch(m)
	select {
	case <-m.Done():
	case <-time.After(patience):
		require.Fail(t, "it goes on")
	}
	require.NoError(t, logged(m, "found data inconsistency with peers"))
	c.Kill(m)
	m.Flags = flags
}

// requireAccused waits until a member, and nobody else, is said to be corrupt, and requires that no member serves data.
func requireAccused(t *testing.T, c *cluster, id uint64) {
	t.Helper()
	for _, m := range c.Members {
		s := c.on[m]
		eventually(t, func(ctx context.Context) error {
			st, err := s.Status(ctx, &pb.StatusRequest{})
			if err == nil && len(st.Errors) == 0 {
				err = fmt.Errorf("%s knows of no alarm", m.Name)
			}
			return err
		}, "alarm")
		ctx := within(t, patience)
		alarms, err := s.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET, Alarm: pb.AlarmType_CORRUPT})
		require.NoError(t, err)
		require.Len(t, alarms.Alarms, 1)
		require.Equal(t, id, alarms.Alarms[0].MemberID)
		_, err = s.Put(ctx, &pb.PutRequest{Key: []byte("key")})
		require.Equal(t, rpctypes.ErrGRPCCorrupt.Error(), fmt.Sprint(err))
	}
}
