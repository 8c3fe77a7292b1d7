package objectstore

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLogForgetsByNumberBytesAndAge(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, x := range []struct {
		log  *changeLog
		size int
		age  time.Duration
		most uint64 // changes that stay
	}{
		{newChangeLog(300, 1<<30, time.Hour), 10, 0, 300 + chunkLen},
		{newChangeLog(1<<20, 100_000, time.Hour), 1000, 0, 100 + chunkLen},
		{newChangeLog(1<<20, 1<<30, time.Second), 10, 10 * time.Millisecond, 100 + chunkLen},
	} {
		for i := range int64(2000) {
			now = now.Add(x.age)
			x.log.append(change{revision: i + 1, item: &Item{size: x.size}}, now)
		}
		held := x.log.tail.first + uint64(x.log.tail.used.Load()) - x.log.chunks[0].first
		require.LessOrEqual(t, held, x.most)
		require.Greater(t, held, x.most/4)
		require.Equal(t, int64(2000-held), x.log.floor)
		_, floor, ok := x.log.seek(x.log.floor - 1)
		require.False(t, ok)
		require.Equal(t, x.log.floor, floor)
		for _, after := range []int64{floor, floor + 1, floor + chunkLen, 1999, 2000, 2001} {
			p, _, ok := x.log.seek(after)
			require.True(t, ok)
			for want := after + 1; want <= 2000; want++ {
				c, behind := x.log.read(&p)
				require.False(t, behind)
				require.Equal(t, want, c.revision)
			}
			c, behind := x.log.read(&p)
			require.Nil(t, c)
			require.False(t, behind)
		}
	}
}

func TestLogReset(t *testing.T) {
	l := newChangeLog(1000, 1<<20, time.Hour)
	p, _, ok := l.seek(0)
	require.True(t, ok)
	l.append(change{revision: 1}, time.Time{})
	_, behind := l.read(&p)
	require.False(t, behind)
	l.reset(10)
	_, behind = l.read(&p)
	require.True(t, behind)
	_, _, ok = l.seek(9)
	require.False(t, ok)
	p, _, ok = l.seek(10)
	require.True(t, ok)
	l.append(change{revision: 11}, time.Time{})
	c, _ := l.read(&p)
	require.Equal(t, int64(11), c.revision)
}

// Readers that are fast enough read everything in order; the others find out.
func TestLogReadersAndWriter(t *testing.T) {
	const n = 200_000
	l := newChangeLog(1000, 1<<30, time.Hour)
	l.append(change{revision: 1}, time.Time{})
	var end atomic.Bool
	var wg sync.WaitGroup
	for r := range 3 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(r)))
			for last := int64(0); !end.Load(); {
				p, floor, ok := l.seek(last)
				if !ok {
					last = floor
					continue
				}
				for {
					c, behind := l.read(&p)
					if behind || c == nil && end.Load() {
						break
					}
					if c == nil {
						continue
					}
					if c.revision != last+1 {
						t.Errorf("%d after %d", c.revision, last)
						return
					}
					last = c.revision
					if r > 0 && rnd.IntN(1000) == 0 {
						time.Sleep(time.Duration(rnd.IntN(r*1000)) * time.Microsecond)
					}
				}
			}
		})
	}
	for i := range int64(n) {
		l.append(change{revision: i + 2}, time.Time{})
	}
	end.Store(true)
	wg.Wait()
}
