package objectstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/client"
)

// errForgotten is that changes are known no more: the store compacted them, or they are too many to be held.
var errForgotten = errors.New("objectstore: the changes are forgotten")

// reach makes the log hold every change after a revision, if it does not: what is missing is read from the history in the
// store, once for all who ask. So watches outlive the process that served them. An error is a client's.
func (c *cache) reach(ctx context.Context, after int64) error {
	select {
	case c.log.reading <- struct{}{}:
		defer func() { <-c.log.reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	floor, room := c.log.room()
	if after >= floor {
		return nil
	}
	changes, err := c.history(ctx, after, floor, room)
	if err == nil && !c.log.prepend(changes, after, floor, c.store.cfg.Clock.Now()) {
		err = errForgotten // it was emptied, or forgot more meanwhile
	}
	if errors.Is(err, errForgotten) {
		return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", after, floor))
	}
	return storeError(ctx, err, false)
}

// history reads the changes after one revision up to another from the store, at most so many.
func (c *cache) history(ctx context.Context, after, until int64, most int) ([]change, error) {
	ctx, done := c.request(ctx, "history")
	defer done()
	// A stream of its own, whose answers about progress are about this watch, and which holds up nobody else's.
	ctx = metadata.AppendToOutgoingContext(ctx, "keelson-history", fmt.Sprint(c.resource, after, until))
	w := c.store.cfg.Client.Watch(ctx, c.prefix, client.WithPrefix(), client.WithRev(after+1), client.WithPrevKV(), client.WithFragment())
	defer w.Close()
	stop := c.keepAsking(w)
	defer stop()
	var changes []change
	states := map[string]*Item{} // the newest ones that were read
	for most > 0 {
		r, err := w.Next(ctx)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted):
			return nil, errForgotten
		case err != nil:
			return nil, err
		case r.IsProgress() && r.Header.GetRevision() >= until:
			return changes, nil
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision > until {
				return changes, nil
			}
			ch, err := c.past(states, e)
			if err != nil {
				return nil, err
			}
			changes = append(changes, ch)
		}
		if len(changes) > most {
			break
		}
	}
	return nil, errForgotten
}

// past makes a change of an event that says what was there before.
func (c *cache) past(states map[string]*Item, e *client.Event) (change, error) {
	key := string(e.Kv.Key)
	ch := change{revision: e.Kv.ModRevision, prev: states[key]}
	deleted := e.Type == client.EventDelete
	if ch.prev == nil && (deleted || e.Kv.CreateRevision != e.Kv.ModRevision) {
		if e.PrevKv == nil {
			return ch, errForgotten
		}
		ch.prev = c.item(e.PrevKv)
	}
	if prev := ch.prev; prev != nil {
		ch.gone = sync.OnceValue(func() *Item { return prev.at(ch.revision) })
	}
	delete(states, key)
	if !deleted {
		ch.item = c.item(e.Kv)
		states[key] = ch.item
	}
	return ch, nil
}

// keepAsking makes a watch tell how far it is, again and again, until stop is called.
func (c *cache) keepAsking(w *client.Watcher) (stop func()) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause := firstAsk; ; pause = min(2*pause, lastAsk) {
			w.RequestProgress()
			t := c.store.cfg.Clock.NewTimer(pause)
			select {
			case <-t.C():
			case <-ended:
				t.Stop()
				return
			}
		}
	})
	return func() {
		close(ended)
		wg.Wait()
	}
}

// room returns after which revision the log holds every change, and how many more it may hold.
func (l *changeLog) room() (floor int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes >= l.maxBytes {
		return l.floor, 0
	}
	last := l.chunks[len(l.chunks)-1]
	return l.floor, l.maxChanges - int(last.first+uint64(last.used.Load())-l.chunks[0].first)
}

// prepend puts changes in front of the log, after which it holds every change after a revision. It refuses if the log does
// not begin at the floor that the caller knows, or would become too large.
func (l *changeLog) prepend(changes []change, after, floor int64, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	bytes := 0
	for i := range changes {
		bytes += changes[i].size()
	}
	if l.floor != floor || l.bytes+bytes > l.maxBytes {
		return false
	}
	next := l.chunks[0]
	var front []*chunk
	for number := next.first - uint64(len(changes)); len(changes) > 0; {
		c := &chunk{first: number, last: now}
		n := copy(c.changes[:], changes)
		for i := range n {
			c.bytes += c.changes[i].size()
		}
		c.used.Store(int32(n))
		changes, number = changes[n:], number+uint64(n)
		if len(front) > 0 {
			front[len(front)-1].next.Store(c)
		}
		front = append(front, c)
	}
	if len(front) > 0 {
		front[len(front)-1].next.Store(next)
	}
	l.chunks, l.bytes, l.floor = append(front, l.chunks...), l.bytes+bytes, after
	return true
}
