package objectstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func open(t testing.TB, c *Collection, q WatchQuery) *Stream {
	t.Helper()
	s, err := c.Watch(ctx, q)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func TestWatchBeginnings(t *testing.T) {
	f := start(t)
	c := f.store(t, quick).Collection(podKind())
	ready(t, c)
	r1 := create(t, c, pod("a", "x")).Revision
	r2 := create(t, c, pod("a", "y")).Revision
	r3 := relabel(t, c, "a", "x", "k", "v").Revision
	_, err := c.List(ctx, ListQuery{})
	require.NoError(t, err)
	const notOlder = metav1.ResourceVersionMatchNotOlderThan
	yes, no := ptr.To(true), ptr.To(false)
	state := []string{"ADDED x " + rv(r3), "ADDED y " + rv(r2)}
	for _, x := range []struct {
		name string
		q    WatchQuery
		want []string
	}{
		{"now", WatchQuery{}, state},
		{"any", WatchQuery{ResourceVersion: "0"}, state},
		{"after", WatchQuery{ResourceVersion: rv(r1)}, []string{"ADDED y " + rv(r2), "MODIFIED x " + rv(r3)}},
		{"after all", WatchQuery{ResourceVersion: rv(r3)}, nil},
		{"initial, no bookmarks", WatchQuery{SendInitialEvents: yes, Match: notOlder}, state},
		{"initial", WatchQuery{SendInitialEvents: yes, Match: notOlder, Bookmarks: true}, append(state, "BOOKMARK "+rv(r3))},
		{"initial any", WatchQuery{SendInitialEvents: yes, Match: notOlder, Bookmarks: true, ResourceVersion: "0"}, append(state, "BOOKMARK "+rv(r3))},
		{"initial not older", WatchQuery{SendInitialEvents: yes, Match: notOlder, Bookmarks: true, ResourceVersion: rv(r2)}, append(state, "BOOKMARK "+rv(r3))},
		{"no initial", WatchQuery{SendInitialEvents: no, Match: notOlder}, nil},
		{"no initial any", WatchQuery{SendInitialEvents: no, Match: notOlder, ResourceVersion: "0"}, nil},
		{"no initial after", WatchQuery{SendInitialEvents: no, Match: notOlder, ResourceVersion: rv(r2)}, []string{"MODIFIED x " + rv(r3)}},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := open(t, c, x.q)
			require.Equal(t, x.want, next(t, s, len(x.want)))
			quiet(t, s)
		})
	}

	for _, q := range []WatchQuery{{SendInitialEvents: yes}, {Match: notOlder}, {SendInitialEvents: no, Match: metav1.ResourceVersionMatchExact}} {
		_, err := c.Watch(ctx, q)
		require.True(t, apierrors.IsInvalid(err), err)
	}
	_, err = c.Watch(ctx, WatchQuery{ResourceVersion: "x"})
	require.True(t, apierrors.IsBadRequest(err), err)
	future := open(t, c, WatchQuery{SendInitialEvents: yes, Match: notOlder, ResourceVersion: rv(r3 + 100)})
	require.True(t, apierrors.HasStatusCause(nextError(t, future), metav1.CauseTypeResourceVersionTooLarge))
	require.Len(t, next(t, open(t, c, WatchQuery{ResourceVersion: "1"}), 3), 3)

	// What the cache was not there for is read from the store, unless that has forgotten it.
	_, err = f.client.Compact(ctx, r2, false)
	require.NoError(t, err)
	late := f.store(t).Collection(podKind())
	require.Equal(t, []string{"MODIFIED x " + rv(r3)}, next(t, open(t, late, WatchQuery{ResourceVersion: rv(r2)}), 1))
	s := open(t, late, WatchQuery{ResourceVersion: rv(r1 - 1)})
	err = nextError(t, s)
	require.True(t, apierrors.IsResourceExpired(err), err)
	require.Contains(t, err.Error(), "too old resource version")
}

// ready waits until a collection's cache is filled.
func ready(t testing.TB, c *Collection) {
	t.Helper()
	_, err := c.List(ctx, ListQuery{ResourceVersion: "0"})
	require.NoError(t, err)
	ok, err := c.Ready()
	require.NoError(t, err)
	require.True(t, ok)
}

// Objects that begin or cease to match are added and deleted.
func TestWatchSelectors(t *testing.T) {
	f := start(t)
	c := f.store(t).Collection(podKind())
	ready(t, c)
	byLabel := open(t, c, WatchQuery{Labels: parse(t, "on=yes"), ResourceVersion: "0"})
	byNode := open(t, c, WatchQuery{Fields: fields.ParseSelectorOrDie("spec.nodeName=n1"), ResourceVersion: "0"})
	byName := open(t, c, WatchQuery{Namespace: "a", Fields: fields.ParseSelectorOrDie("metadata.name=x"), ResourceVersion: "0"})
	byNamespace := open(t, c, WatchQuery{Namespace: "b", ResourceVersion: "0"})
	require.Equal(t, interest{"spec.nodeName", "n1"}, byNode.interest)
	require.Equal(t, interest{byKey, "/registry/pods/a/x"}, byName.interest)
	require.Equal(t, interest{byScope, "/registry/pods/b/"}, byNamespace.interest)

	r1 := create(t, c, pod("a", "x")).Revision
	r2 := relabel(t, c, "a", "x", "on", "yes").Revision
	r3 := relabel(t, c, "a", "x", "k", "v").Revision
	bound, err := c.Update(ctx, "a", "x", func(cur *Item) (kinds.Object, error) {
		p := cur.Object.DeepCopyObject().(*corev1.Pod)
		p.Spec.NodeName, p.Labels = "n1", nil
		return p, nil
	})
	require.NoError(t, err)
	r4 := bound.Revision
	moved, err := c.Update(ctx, "a", "x", func(cur *Item) (kinds.Object, error) {
		p := cur.Object.DeepCopyObject().(*corev1.Pod)
		p.Spec.NodeName = "n2"
		return p, nil
	})
	require.NoError(t, err)
	r5 := moved.Revision
	r6 := create(t, c, pod("b", "x", "on", "yes")).Revision
	gone, err := c.Delete(ctx, "a", "x", nil)
	require.NoError(t, err)
	r7 := gone.Revision

	require.Equal(t, []string{"ADDED x " + rv(r2), "MODIFIED x " + rv(r3), "DELETED x " + rv(r4), "ADDED x " + rv(r6)}, next(t, byLabel, 4))
	require.Equal(t, []string{"ADDED x " + rv(r4), "DELETED x " + rv(r5)}, next(t, byNode, 2))
	require.Equal(t, []string{
		"ADDED x " + rv(r1), "MODIFIED x " + rv(r2), "MODIFIED x " + rv(r3), "MODIFIED x " + rv(r4), "MODIFIED x " + rv(r5), "DELETED x " + rv(r7),
	}, next(t, byName, 6))
	require.Equal(t, []string{"ADDED x " + rv(r6)}, next(t, byNamespace, 1))
	for _, s := range []*Stream{byLabel, byNode, byName, byNamespace} {
		quiet(t, s)
	}
}

// The last state of an object is what it was before it ceased to match.
func TestDeletedCarriesTheLastState(t *testing.T) {
	f := start(t)
	c := f.store(t).Collection(podKind())
	s := open(t, c, WatchQuery{Labels: parse(t, "on=yes"), ResourceVersion: "0"})
	create(t, c, pod("a", "x", "on", "yes"))
	r := relabel(t, c, "a", "x", "on", "no").Revision
	var events []Event
	for len(events) < 2 { // they may come together
		more, err := s.Next(ctx)
		require.NoError(t, err)
		events = append(events, more...)
	}
	require.Equal(t, watch.Added, events[0].Type)
	require.Equal(t, watch.Deleted, events[1].Type)
	require.Equal(t, "yes", events[1].Item.Object.GetLabels()["on"])
	require.Equal(t, rv(r), events[1].Item.Object.GetResourceVersion())
	require.Equal(t, r, events[1].Revision)
}

func TestBookmarks(t *testing.T) {
	f := start(t)
	s := f.store(t, func(c *Config) { c.BookmarkEvery, c.ProgressEvery = 50*time.Millisecond, 20*time.Millisecond })
	c, nodes := s.Collection(podKind()), s.Collection(nodeKind())
	ready(t, c)
	w := open(t, c, WatchQuery{ResourceVersion: "0", Bookmarks: true})
	r := create(t, nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}).Revision
	// A kind in which nothing happens is told of the revisions of others.
	require.Eventually(t, func() bool { return next(t, w, 1)[0] == "BOOKMARK "+rv(r) }, 5*time.Second, time.Millisecond)

	// The last one comes before the end of the watch.
	s = f.store(t)
	deadline, cancel := context.WithTimeout(ctx, lastBookmark+200*time.Millisecond)
	defer cancel()
	w, err := s.Collection(podKind()).Watch(deadline, WatchQuery{ResourceVersion: "0", Bookmarks: true})
	require.NoError(t, err)
	defer w.Close()
	begun := time.Now()
	events, err := w.Next(deadline)
	require.NoError(t, err)
	require.Equal(t, watch.Bookmark, events[0].Type)
	require.Less(t, time.Since(begun), time.Second)
}

// A stream that is not read ends when the log has forgotten what it needs; one that is not concerned does not.
func TestSlowStreams(t *testing.T) {
	f := start(t)
	c := f.store(t, func(c *Config) { c.LogEvents = 10 }).Collection(podKind())
	ready(t, c)
	create(t, c, pod("b", "x"))
	slow := open(t, c, WatchQuery{ResourceVersion: "0"})
	fast := open(t, c, WatchQuery{ResourceVersion: "0"})
	narrow := open(t, c, WatchQuery{ResourceVersion: "0", Namespace: "b"})
	next(t, slow, 1)
	next(t, narrow, 1)
	next(t, fast, 1)
	create(t, c, pod("a", "x"))
	for i := range 3 * chunkLen {
		relabel(t, c, "a", "x", "i", fmt.Sprint(i))
		next(t, fast, 1)
	}
	quiet(t, narrow)
	r := relabel(t, c, "b", "x", "i", "1").Revision
	require.Equal(t, []string{"MODIFIED x " + rv(r)}, next(t, narrow, 1))
	err := nextError(t, slow)
	require.True(t, apierrors.IsResourceExpired(err), err)
}

// When the store compacted what the cache had not yet read, the cache starts anew and its watches end.
func TestCompactedWatch(t *testing.T) {
	f := start(t)
	s := f.store(t, func(c *Config) { c.FreshTimeout = 10 * time.Second })
	c := s.Collection(podKind())
	ready(t, c)
	create(t, c, pod("a", "x"))
	w := open(t, c, WatchQuery{ResourceVersion: "0"})
	next(t, w, 1)

	// While the cache cannot be reached the history goes.
	other := dial(t, f.Cluster)
	s2 := New(Config{Client: other})
	defer s2.Close()
	w2 := s2.Collection(podKind())
	require.NoError(t, f.client.SetEndpoints("127.0.0.1:1"))
	_, err := w2.Delete(ctx, "a", "x", nil)
	require.NoError(t, err)
	last := create(t, w2, pod("a", "y")).Revision
	_, err = other.Compact(ctx, last, false)
	require.NoError(t, err)
	require.NoError(t, f.client.SetEndpoints(f.Addrs()...))

	err = nextError(t, w)
	require.True(t, apierrors.IsResourceExpired(err), err)
	p, err := c.List(ctx, ListQuery{})
	require.NoError(t, err)
	require.Equal(t, []string{"y"}, names(p.Items))
	w = open(t, c, WatchQuery{ResourceVersion: rv(p.Revision)})
	r := relabel(t, w2, "a", "y", "k", "v").Revision
	require.Equal(t, []string{"MODIFIED y " + rv(r)}, next(t, w, 1))
}

// The member goes and comes back: the cache answers meanwhile, other requests fail in time, and no event is lost.
func TestStoreRestarts(t *testing.T) {
	f := start(t)
	s := f.store(t, func(c *Config) { c.StoreTimeout, c.FreshTimeout = 300*time.Millisecond, 200*time.Millisecond })
	c := s.Collection(podKind())
	ready(t, c)
	create(t, c, pod("a", "x"))
	w := open(t, c, WatchQuery{ResourceVersion: "0"})
	next(t, w, 1)
	f.Stop(f.Members[0])

	begun := time.Now()
	p, err := c.List(ctx, ListQuery{ResourceVersion: "0"})
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, names(p.Items))
	_, err = c.Get(ctx, "a", "x", "0")
	require.NoError(t, err)
	failed := func(err error) {
		t.Helper()
		require.True(t, apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err), "%v", err)
	}
	_, err = c.List(ctx, ListQuery{})
	failed(err)
	_, err = c.Get(ctx, "a", "x", "")
	failed(err)
	_, err = c.Create(ctx, pod("a", "y"))
	failed(err)
	_, err = c.Update(ctx, "a", "x", func(cur *Item) (kinds.Object, error) { return pod("a", "x", "k", "v"), nil })
	failed(err)
	_, err = c.Delete(ctx, "a", "x", nil)
	failed(err)
	_, err = c.Watch(ctx, WatchQuery{})
	failed(err)
	require.Less(t, time.Since(begun), 5*time.Second)

	f.Run(f.Members[0])
	f.WaitReady(f.Members[0])
	var it *Item
	require.Eventually(t, func() bool {
		it, err = c.Create(ctx, pod("a", "z"))
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, []string{"ADDED z " + rv(it.Revision)}, next(t, w, 1))
}
