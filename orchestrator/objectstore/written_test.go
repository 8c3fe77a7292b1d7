package objectstore

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// TestDecodedOnce has writers and the watch meet: each write is decoded once, and leaves nothing behind.
func TestDecodedOnce(t *testing.T) {
	f := start(t)
	s := f.store(t)
	var made atomic.Int64
	k := podKind()
	plain := k.New
	k.New = func() kinds.Object {
		made.Add(1)
		return plain()
	}
	c := s.Collection(k)
	require.True(t, eventually(c.Empty))
	made.Store(0)
	const writers, each = 8, 50
	var wg sync.WaitGroup
	items := make([][]*Item, writers)
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				it, err := c.Create(ctx, pod("a", fmt.Sprintf("p-%d-%d", w, i)))
				if err != nil {
					t.Error(err)
					return
				}
				items[w] = append(items[w], it)
			}
		})
	}
	wg.Wait()
	last := items[0][0].Revision
	for _, of := range items {
		for _, it := range of {
			last = max(last, it.Revision)
		}
	}
	p, err := c.List(ctx, ListQuery{ResourceVersion: rv(last), Match: "NotOlderThan"})
	require.NoError(t, err)
	require.Len(t, p.Items, writers*each)
	require.EqualValues(t, writers*each, made.Load())
	require.False(t, c.Empty())
	cached := map[*Item]bool{}
	for _, it := range p.Items {
		cached[it] = true
	}
	for _, of := range items {
		for _, it := range of {
			require.True(t, cached[it], "writer and cache share the item")
		}
	}
	require.True(t, eventually(func() bool {
		w := &c.cache.written
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.items) == 0
	}))
}

func eventually(f func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if f() {
			return true
		}
	}
	return false
}
