package raftnode

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestEntries reads entries from memory and, once they have left it, from the log, also those that no follower is served from.
func TestEntries(t *testing.T) {
	l, sm := &memLog{}, &testSM{}
	cfg := singleConfig(l, sm)
	cfg.Limits.CacheBytes = 4 << 10
	n := startSingle(t, cfg)
	waitLead(t, n)
	data := bytes.Repeat([]byte("x"), 100)
	for range 200 {
		require.NoError(t, n.Propose(bytes.Clone(data)))
	}
	require.Eventually(t, func() bool { return len(sm.lines()) == 200 }, 5*time.Second, time.Millisecond)
	last := n.Applied()
	for lo := uint64(1); lo <= last; {
		ents, err := n.Entries(t.Context(), lo, last+1, 1000)
		require.NoError(t, err)
		require.NotEmpty(t, ents)
		require.Less(t, len(ents), 20, "the bound is kept")
		for _, e := range ents {
			require.Equal(t, lo, e.GetIndex())
			lo++
		}
	}
	reads := func() (n int) { l.set(func(l *memLog) { n = l.reads }); return n }
	require.Positive(t, reads())
	before := reads()
	ents, err := n.Entries(t.Context(), last, last+1, 0)
	require.NoError(t, err)
	require.Len(t, ents, 1, "one, whatever its size")
	require.Equal(t, before, reads(), "from memory")

	require.NoError(t, l.ReleaseTo(50))
	_, err = n.Entries(t.Context(), 49, last, 1000)
	require.ErrorContains(t, err, "released")
	require.NoError(t, n.Stop(context.Background()))
	_, err = n.Entries(t.Context(), last, last+1, 0)
	require.ErrorIs(t, err, ErrStopped)
}
