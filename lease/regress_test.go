package lease

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The test named after etcd's issue is listed in docs/contributing/regressions.md.

// TestEtcd17132TTLOverManyLeaders changes the leader of three members again and again. What was recorded of a lease's remaining
// time must bind every one of them, also after a restart from the file. In etcd the third leader gave the lease all of its
// time again.
func TestEtcd17132TTLOverManyLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl, half = 600, 300
		var tables []*Table
		var files []*memRows
		for range 3 {
			files = append(files, newRows())
			tables = append(tables, NewTable(Config{Rows: files[len(files)-1], Extend: time.Second}))
			mustGrant(t, tables[len(tables)-1], 1, ttl)
		}
		term := uint64(1)
		lead := tables[0]
		lead.Leadership(term, true)
		require.True(t, lead.Promote(term))
		time.Sleep(half * time.Second)
		expired, checks, _ := due(lead)
		require.Empty(t, expired)
		require.Equal(t, []Checkpoint{{ID: 1, Remaining: half + 1}}, checks) // a reign begins with a second more
		for _, tab := range tables {                                         // through the log
			require.NoError(t, tab.Checkpoint(1, checks[0].Remaining))
		}
		for round := range 9 {
			lead.Leadership(term, false)
			term++
			i := (round + 1) % 3
			if round > 4 { // it was restarted
				tables[i] = NewTable(Config{Rows: files[i], Extend: time.Second})
				require.NoError(t, tables[i].Restore(files[i]))
			}
			lead = tables[i]
			lead.Leadership(term, true)
			require.True(t, lead.Promote(term))
			info, err := lead.TimeToLive(1, false)
			require.NoError(t, err)
			require.EqualValues(t, ttl, info.Granted)
			require.LessOrEqual(t, info.Remaining, int64(half+2), "leader %d", round)
			time.Sleep(10 * time.Second)
		}
		time.Sleep((half + 2) * time.Second)
		expired, _, _ = due(lead)
		require.Equal(t, []ID{1}, expired)
	})
}
