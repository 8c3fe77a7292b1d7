package objectstore

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Whoever follows a server that goes and comes back misses nothing of what happened before the new one was there.
func TestWatchResumesInAnotherProcess(t *testing.T) {
	f := start(t)
	c := f.store(t).Collection(podKind())
	ready(t, c)
	r0 := create(t, c, pod("a", "kept", "on", "yes")).Revision
	var want, matching []string
	record := func(what string, it *Item) {
		want = append(want, fmt.Sprintf("%s %s %d", what, it.Object.GetName(), it.Revision))
	}
	for i := range chunkLen {
		name := fmt.Sprint("p", i)
		record("ADDED", create(t, c, pod("b", name)))
		record("MODIFIED", relabel(t, c, "a", "kept", "i", fmt.Sprint(i)))
		gone, err := c.Delete(ctx, "b", name, nil)
		require.NoError(t, err)
		record("DELETED", gone)
	}
	last := relabel(t, c, "a", "kept", "on", "no")
	record("MODIFIED", last)
	for _, e := range want[:len(want)-1] {
		if e[0] == 'M' {
			matching = append(matching, e)
		}
	}
	matching = append(matching, "DELETED kept "+rv(last.Revision))

	late := f.store(t).Collection(podKind())
	ready(t, late)
	var wg sync.WaitGroup
	for i := range 8 { // some of them ask for more than others have read
		wg.Go(func() {
			from := want[max(0, i-1)*chunkLen/4:]
			if i == 0 {
				from = append([]string{"ADDED kept " + rv(r0)}, want...)
			}
			var first int64
			_, err := fmt.Sscanf(from[0], "%s %s %d", new(string), new(string), &first)
			require.NoError(t, err)
			s := open(t, late, WatchQuery{ResourceVersion: rv(first - 1)})
			require.Equal(t, from, next(t, s, len(from)))
			quiet(t, s)
		})
	}
	wg.Wait()
	byLabel := open(t, late, WatchQuery{ResourceVersion: rv(r0), Labels: parse(t, "on=yes")})
	require.Equal(t, matching, next(t, byLabel, len(matching)))
	r := relabel(t, late, "a", "kept", "on", "yes").Revision
	require.Equal(t, []string{"ADDED kept " + rv(r)}, next(t, byLabel, 1))

	// It is no way around the bounds of the log.
	short := f.store(t, func(c *Config) { c.LogEvents = chunkLen }).Collection(podKind())
	ready(t, short)
	err := nextError(t, open(t, short, WatchQuery{ResourceVersion: rv(r0)}))
	require.True(t, apierrors.IsResourceExpired(err), err)
	open(t, short, WatchQuery{ResourceVersion: rv(r - 2)})
}

func TestLogPrepend(t *testing.T) {
	l := newChangeLog(1000, 100_000, time.Hour)
	l.reset(10)
	old := make([]change, chunkLen+2)
	for i := range old {
		old[i] = change{revision: 11 - int64(len(old)) + int64(i)}
	}
	first := old[0].revision
	require.False(t, l.prepend(old, first-1, 9, time.Time{}), "the log begins elsewhere")
	require.True(t, l.prepend(old, first-1, 10, time.Time{}))
	p, _, ok := l.seek(first - 1)
	require.True(t, ok)
	l.append(change{revision: 11}, time.Time{})
	for want := first; want <= 11; want++ {
		before := p.number()
		c, behind := l.read(&p)
		require.False(t, behind)
		require.Equal(t, want, c.revision)
		require.Greater(t, p.number(), before)
	}
	_, _, ok = l.seek(first - 2)
	require.False(t, ok)

	// An empty piece of history says that nothing happened.
	require.True(t, l.prepend(nil, first-100, first-1, time.Time{}))
	p, _, ok = l.seek(first - 50)
	require.True(t, ok)
	c, _ := l.read(&p)
	require.Equal(t, first, c.revision)

	floor, n := l.room()
	require.Equal(t, first-100, floor)
	require.Equal(t, 1000-len(old)-1, n)
	require.False(t, l.prepend(make([]change, 1000), 0, floor, time.Time{}), "too many bytes")

	l.trim(time.Time{}.Add(2 * time.Hour))
	_, floor, ok = l.seek(first)
	require.False(t, ok)
	require.Equal(t, int64(10), floor)
}
