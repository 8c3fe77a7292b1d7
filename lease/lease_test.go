package lease

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/leasepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRenewWaits: what becomes of an expired lease decides what its renewal answers.
func TestRenewWaits(t *testing.T) {
	outcomes := []struct {
		name string
		do   func(*Table)
		want error
	}{
		{"revoked", func(tab *Table) { _, _ = tab.Revoke(1) }, ErrLeaseNotFound},
		{"leadership lost", func(tab *Table) { tab.Leadership(1, false) }, ErrNotPrimary},
		{"snapshot without it", func(tab *Table) { _ = tab.Restore(newRows()) }, ErrNotPrimary},
		{"nothing", func(*Table) {}, context.DeadlineExceeded},
	}
	for _, o := range outcomes {
		t.Run(o.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tab := NewTable(Config{})
				require.True(t, tab.Promote(1))
				mustGrant(t, tab, 1, 5)
				time.Sleep(5 * time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				answer := make(chan error, 1)
				go func() {
					_, err := tab.Renew(ctx, 1)
					answer <- err
				}()
				synctest.Wait()
				require.Empty(t, answer, "it must wait")
				o.do(tab)
				started := time.Now()
				require.ErrorIs(t, <-answer, o.want)
				if o.name != "nothing" {
					require.Zero(t, time.Since(started))
				}
			})
		})
	}
}

// TestRenewClears: a renewal after a checkpoint is answered once the log has cleared it, without any delay but the log's.
func TestRenewClears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := NewTable(Config{})
		defer runTable(t, tab)()
		require.True(t, tab.Promote(1))
		mustGrant(t, tab, 1, 60)
		require.Equal(t, []Checkpoint{{1, 30}}, <-tab.CheckpointsDue())
		require.NoError(t, tab.Checkpoint(1, 30))
		const clients = 5
		var group sync.WaitGroup
		for range clients {
			group.Go(func() {
				ttl, err := tab.Renew(t.Context(), 1)
				if err != nil || ttl != 60 {
					t.Errorf("renewal answered %d, %v", ttl, err)
				}
			})
		}
		started := time.Now()
		require.Equal(t, []Checkpoint{{ID: 1}}, <-tab.CheckpointsDue())
		require.Less(t, time.Since(started), 20*time.Millisecond)
		require.NoError(t, tab.Checkpoint(1, 0))
		group.Wait()
		select {
		case more := <-tab.CheckpointsDue():
			t.Fatalf("one proposal serves all who wait, got %v as well", more)
		case <-time.After(10 * time.Second):
		}
	})
}

// TestOnTime: with many leases and a slow owner, every one is offered at its time and again while it is there.
func TestOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20_000
		tab := NewTable(Config{})
		defer runTable(t, tab)()
		require.True(t, tab.Promote(1))
		start := time.Now()
		ends := map[ID]time.Duration{}
		for i := ID(1); i <= n; i++ {
			ttl := int64(i)%20 + 2
			ends[i] = time.Duration(ttl) * time.Second
			mustGrant(t, tab, i, ttl)
		}
		offers := 0
		for len(ends) > 0 {
			batch := <-tab.Expired()
			require.LessOrEqual(t, len(batch), maxBatch)
			for _, id := range tab.StillExpired(batch) {
				offers++
				late := time.Since(start) - ends[id]
				require.GreaterOrEqual(t, late, time.Duration(0), "lease %d", id)
				if offers%3 == 0 {
					continue // this revocation gets lost
				}
				require.LessOrEqual(t, late%(3*time.Second), 200*time.Millisecond, "lease %d", id)
				_, err := tab.Revoke(id)
				require.NoError(t, err)
				delete(ends, id)
			}
		}
		require.Zero(t, tab.Len())
	})
}

// TestBusyOwner: while nobody takes the expired leases, checkpoints still flow, and nothing piles up.
func TestBusyOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := NewTable(Config{})
		defer runTable(t, tab)()
		require.True(t, tab.Promote(1))
		for i := ID(1); i <= 3000; i++ {
			mustGrant(t, tab, i, 5)
		}
		mustGrant(t, tab, 5000, 3600)
		require.Equal(t, []Checkpoint{{5000, 3300}}, <-tab.CheckpointsDue())
		got := map[ID]int{}
		for len(got) < 3000 {
			for _, id := range <-tab.Expired() {
				got[id]++
			}
		}
		for id, times := range got {
			require.Equal(t, 1, times, "lease %d", id)
		}
	})
}

func TestRestoreRefusesBadRows(t *testing.T) {
	good := record{id: 5, ttl: 10}.marshal()
	for name, row := range map[string][2][]byte{
		"short key":       {[]byte("1234567"), good},
		"another lease":   {rowKey(6), good},
		"no lease":        {rowKey(0), record{ttl: 3}.marshal()},
		"torn value":      {rowKey(5), good[:3]},
		"torn tag":        {rowKey(5), []byte{0x88}},
		"not a message":   {rowKey(5), []byte("\xff\xff\xff")},
		"torn other type": {rowKey(5), []byte{0x0a, 0x20, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			rows := newRows()
			rows.Put(row[0], row[1])
			tab := NewTable(Config{})
			mustGrant(t, tab, 77, 10)
			err := tab.Restore(rows)
			require.ErrorContains(t, err, fmt.Sprintf("row %x", row[0]))
			require.True(t, tab.Exists(77), "a failed restore changes nothing")
		})
	}
}

// TestRestoreRaisesTTL: as etcd does, a stored time to live below today's shortest one is raised.
func TestRestoreRaisesTTL(t *testing.T) {
	rows := newRows()
	rows.Put(rowKey(5), record{id: 5, ttl: 1}.marshal())
	tab := NewTable(Config{MinTTL: 4})
	require.NoError(t, tab.Restore(rows))
	require.True(t, tab.Promote(1))
	info, err := tab.TimeToLive(5, false)
	require.NoError(t, err)
	require.Equal(t, int64(4), info.Granted)
}

// TestRowsOfEtcd compares with rows that etcd 3.7.3's schema.MustUnsafePutLease wrote.
func TestRowsOfEtcd(t *testing.T) {
	for _, c := range []struct {
		r          record
		key, value string
	}{
		{record{1, 60, 0}, "0000000000000001", "0801103c"},
		{record{0x6b3c1f0e5d4a2b91, 9000000000, 1234}, "6b3c1f0e5d4a2b91", "0891d7a8eae5e1879e6b1080b4c4c32118d209"},
		{record{-2, 5, -1}, "fffffffffffffffe", "08feffffffffffffffff01100518ffffffffffffffffff01"},
	} {
		require.Equal(t, c.key, fmt.Sprintf("%x", rowKey(c.r.id)))
		require.Equal(t, c.value, fmt.Sprintf("%x", c.r.marshal()))
	}
}

func TestMinTTL(t *testing.T) {
	require.Equal(t, int64(2), MinTTL(10, 100*time.Millisecond))
	require.Equal(t, int64(8), MinTTL(10, 500*time.Millisecond))
	require.Equal(t, int64(1), MinTTL(5, 100*time.Millisecond))
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	tab := NewTable(Config{Registerer: reg})
	other := NewTable(Config{Registerer: reg}) // shares them
	mustGrant(t, tab, 1, 10)
	mustGrant(t, other, 1, 10)
	require.True(t, tab.Promote(1))
	_, err := tab.Renew(t.Context(), 1)
	require.NoError(t, err)
	_, err = tab.Revoke(1)
	require.NoError(t, err)
	families, err := reg.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, f := range families {
		m := f.Metric[0]
		got[f.GetName()] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	require.Equal(t, map[string]float64{
		"etcd_debugging_lease_granted_total": 2, "etcd_debugging_lease_revoked_total": 1,
		"etcd_debugging_lease_renewed_total": 1, "etcd_debugging_lease_ttl_total": 2,
		"etcd_debugging_server_lease_expired_total": 0,
	}, got)
}

// TestConcurrent lets everything that may be called from anywhere run against the apply goroutine, for the race detector.
func TestConcurrent(t *testing.T) {
	tab := NewTable(Config{Rows: newRows()})
	defer runTable(t, tab)()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var group sync.WaitGroup
	loop := func(f func(i int)) {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				f(i)
			}
		})
	}
	loop(func(i int) { // the apply goroutine
		id := ID(i%500 + 1)
		if _, err := tab.Grant(id, 1); err != nil {
			_, _ = tab.Revoke(id)
		}
		key := fmt.Appendf(nil, "k%d", i%300)
		_ = tab.Attach(ID(i*7%500+1), key)
		if i%5 == 0 {
			tab.Detach(key)
		}
		_ = tab.Checkpoint(id, int64(i%3))
		if i%1000 == 0 {
			tab.Promote(uint64(i + 2))
		}
		if i%100_000 == 99_999 {
			_ = tab.Restore(newRows())
		}
	})
	loop(func(i int) {
		if i%2000 == 0 {
			tab.Leadership(uint64(i), i%4000 == 0)
		}
		time.Sleep(10 * time.Microsecond)
	})
	loop(func(i int) {
		c, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		_, _ = tab.Renew(c, ID(i%500+1))
	})
	loop(func(i int) { _, _ = tab.TimeToLive(ID(i%500+1), true) })
	loop(func(i int) { tab.Leases(); tab.Len(); time.Sleep(time.Millisecond) })
	loop(func(i int) { _, _ = tab.Keys(ID(i%500 + 1)); tab.Exists(ID(i % 500)); tab.IsPrimary() })
	loop(func(int) {
		select {
		case b := <-tab.Expired():
			tab.StillExpired(b)
		case <-tab.CheckpointsDue():
		case <-ctx.Done():
		}
	})
	group.Wait()
	tab.Demote()
	checkInvariants(t, tab)
}

// FuzzRecord decodes stored rows: what it accepts is what the protobuf library reads, and it survives being written again.
func FuzzRecord(f *testing.F) {
	f.Add(rowKey(1), record{1, 60, 0}.marshal())
	f.Add(rowKey(-2), record{-2, 5, -1}.marshal())
	f.Add(rowKey(3), []byte{0x08, 3, 0x22, 2, 'a', 'b'})
	f.Add([]byte("short"), []byte{0x0f})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := unmarshalRecord(value)
		var m leasepb.Lease
		perr := proto.Unmarshal(value, &m)
		if perr == nil {
			require.NoError(t, err)
			require.Equal(t, record{ID(m.ID), m.TTL, m.RemainingTTL}, r)
			m.ProtoReflect().SetUnknown(nil)
			want, err := proto.Marshal(&m)
			require.NoError(t, err)
			require.Equal(t, string(want), string(r.marshal()))
		}
		if row, err := decodeRow(key, value); err == nil {
			require.Equal(t, rowKey(row.id), key)
			tab, rows := NewTable(Config{}), newRows()
			rows.Put(key, value)
			require.NoError(t, tab.Restore(rows))
			require.True(t, tab.Promote(1))
			info, err := tab.TimeToLive(row.id, true)
			require.NoError(t, err)
			require.GreaterOrEqual(t, info.Remaining, int64(0))
			due(tab)
			checkInvariants(t, tab)
		}
	})
}
