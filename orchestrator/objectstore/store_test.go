package objectstore

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func TestCreateGetUpdateDelete(t *testing.T) {
	f := start(t)
	c := f.store(t).Collection(podKind())
	p := pod("a", "x")
	p.SetSelfLink("/old")
	p.Spec.NodeName = "n1"
	it := create(t, c, p)
	require.Equal(t, rv(it.Revision), it.Object.GetResourceVersion())
	require.Equal(t, "Pod", it.Object.GetObjectKind().GroupVersionKind().Kind)
	require.Empty(t, it.Object.GetSelfLink())

	for _, at := range []string{"", rv(it.Revision), "0"} {
		got, err := c.Get(ctx, "a", "x", at)
		require.NoError(t, err)
		require.Equal(t, it.Object, got.Object, at)
	}
	_, err := c.Create(ctx, pod("a", "x"))
	require.True(t, apierrors.IsAlreadyExists(err), err)
	_, err = c.Get(ctx, "a", "y", "")
	require.True(t, apierrors.IsNotFound(err), err)
	_, err = c.Get(ctx, "", "y", "")
	require.True(t, apierrors.IsBadRequest(err), err)
	_, err = c.Get(ctx, "a", "../y", "")
	require.True(t, apierrors.IsBadRequest(err), err)

	up := relabel(t, c, "a", "x", "k", "v")
	require.Greater(t, up.Revision, it.Revision)
	require.Equal(t, "v", up.Object.GetLabels()["k"])
	require.Empty(t, it.Object.GetLabels(), "items never change")
	require.Equal(t, up.Revision, relabel(t, c, "a", "x", "k", "v").Revision, "nothing changed, nothing written")

	refused := errors.New("no")
	_, err = c.Delete(ctx, "a", "x", func(*Item) error { return refused })
	require.ErrorIs(t, err, refused)
	gone, err := c.Delete(ctx, "a", "x", nil)
	require.NoError(t, err)
	require.Greater(t, gone.Revision, up.Revision)
	require.Equal(t, rv(gone.Revision), gone.Object.GetResourceVersion())
	_, err = c.Delete(ctx, "a", "x", nil)
	require.True(t, apierrors.IsNotFound(err), err)
	_, err = c.Update(ctx, "a", "x", func(cur *Item) (kinds.Object, error) { return cur.Object, nil })
	require.True(t, apierrors.IsNotFound(err), err)
}

// A Store whose cache is behind still writes what is right, and errors of old states are not believed.
func TestLostRaces(t *testing.T) {
	f := start(t)
	ours, theirs := f.store(t).Collection(podKind()), f.store(t).Collection(podKind())
	create(t, ours, pod("a", "x"))
	_, err := theirs.List(ctx, ListQuery{})
	require.NoError(t, err)

	calls := 0
	it, err := ours.Update(ctx, "a", "x", func(cur *Item) (kinds.Object, error) {
		if calls++; calls == 1 {
			relabel(t, theirs, "a", "x", "theirs", "1")
		}
		p := cur.Object.DeepCopyObject().(*corev1.Pod)
		metav1.SetMetaDataLabel(&p.ObjectMeta, "ours", "1")
		return p, nil
	})
	require.NoError(t, err)
	require.Equal(t, 2, calls)
	require.Equal(t, map[string]string{"ours": "1", "theirs": "1"}, it.Object.GetLabels())

	// An error that came from an old state.
	calls = 0
	_, err = ours.Update(ctx, "a", "x", func(cur *Item) (kinds.Object, error) {
		if calls++; calls == 1 {
			relabel(t, theirs, "a", "x", "theirs", "2")
			return nil, errors.New("old")
		}
		require.Equal(t, "2", cur.Object.GetLabels()["theirs"])
		return nil, errors.New("new")
	})
	require.EqualError(t, err, "new")

	calls = 0
	_, err = ours.Delete(ctx, "a", "x", func(cur *Item) error {
		if calls++; calls == 1 {
			_, err := theirs.Delete(ctx, "a", "x", nil)
			require.NoError(t, err)
		}
		return nil
	})
	require.True(t, apierrors.IsNotFound(err), err)
}

func TestConvertedKindsShareWhatIsStored(t *testing.T) {
	f := start(t)
	s := f.store(t)
	old := eventKind(0)
	served := newEventKind(old)
	olds, news := s.Collection(old), s.Collection(served)
	require.Same(t, olds.cache, news.cache)
	stream, err := news.Watch(ctx, WatchQuery{})
	require.NoError(t, err)
	defer stream.Close()
	it := create(t, olds, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "e"}, Message: "m"})

	p, err := news.List(ctx, ListQuery{})
	require.NoError(t, err)
	e := p.Items[0].Object.(*eventsv1.Event)
	require.Equal(t, "m", e.Note)
	require.Equal(t, rv(it.Revision), e.ResourceVersion)
	require.Equal(t, "events.k8s.io/v1", e.APIVersion)
	again, err := news.List(ctx, ListQuery{})
	require.NoError(t, err)
	require.Same(t, p.Items[0], again.Items[0], "converted once")
	require.Equal(t, []string{"ADDED e " + rv(it.Revision)}, next(t, stream, 1))

	up, err := news.Update(ctx, "a", "e", func(cur *Item) (kinds.Object, error) {
		e := cur.Object.DeepCopyObject().(*eventsv1.Event)
		e.Note = "n"
		return e, nil
	})
	require.NoError(t, err)
	require.Equal(t, "n", up.Object.(*eventsv1.Event).Note)
	got, err := olds.Get(ctx, "a", "e", "")
	require.NoError(t, err)
	require.Equal(t, "n", got.Object.(*corev1.Event).Message)

	s.Remove(served)
	require.Error(t, nextError(t, stream))
	_, err = news.Get(ctx, "a", "e", "")
	require.True(t, apierrors.IsServiceUnavailable(err), err)
	_, err = olds.Get(ctx, "a", "e", "0")
	require.NoError(t, err, "the other kind still uses the cache")
	s.Remove(old)
	require.Empty(t, s.caches)
}

func TestCustomResources(t *testing.T) {
	f := start(t)
	c := f.store(t).Collection(widgetKind())
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": "w", "namespace": "a"},
		"spec": map[string]any{"size": int64(3), "ratio": 1.5},
	}}
	create(t, c, u)
	r, err := f.client.Get(ctx, "/registry/example.com/widgets/a/w")
	require.NoError(t, err)
	require.Equal(t, `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","namespace":"a"},"spec":{"ratio":1.5,"size":3}}`+"\n",
		string(r.Kvs[0].Value))
	p, err := c.List(ctx, ListQuery{})
	require.NoError(t, err)
	require.Equal(t, int64(3), p.Items[0].Object.(*unstructured.Unstructured).Object["spec"].(map[string]any)["size"])
	gone, err := c.Delete(ctx, "a", "w", nil)
	require.NoError(t, err)
	require.NotEqual(t, gone.Revision, p.Items[0].Revision)
	require.Equal(t, rv(p.Items[0].Revision), p.Items[0].Object.GetResourceVersion(), "the shared item did not change")
}

func TestTTL(t *testing.T) {
	f := start(t)
	s := f.store(t)
	c := s.Collection(eventKind(time.Second))
	stream, err := c.Watch(ctx, WatchQuery{ResourceVersion: "0"})
	require.NoError(t, err)
	defer stream.Close()
	var leases []int64
	for _, n := range []string{"a", "b"} {
		it := create(t, c, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: n}})
		r, err := f.client.Get(ctx, it.Key)
		require.NoError(t, err)
		leases = append(leases, r.Kvs[0].Lease)
	}
	require.NotZero(t, leases[0])
	require.Equal(t, leases[0], leases[1], "shared")
	got := next(t, stream, 4)
	require.Contains(t, got[2], "DELETED")
	require.Contains(t, got[3], "DELETED")
	require.Equal(t, got[2][10:], got[3][10:], "gone in one revision")

	// A lease that is gone is replaced.
	create(t, c, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "c"}})
	s.leases.mu.Lock()
	id := s.leases.byTTL[time.Second].id
	s.leases.mu.Unlock()
	_, err = f.client.Revoke(ctx, id)
	require.NoError(t, err)
	create(t, c, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "d"}})
}

func TestUnreadableValues(t *testing.T) {
	f := start(t)
	_, err := f.client.Put(ctx, "/registry/pods/a/bad", "nonsense")
	require.NoError(t, err)
	c := f.store(t).Collection(podKind())
	create(t, c, pod("b", "good"))
	_, err = c.Get(ctx, "a", "bad", "0")
	require.True(t, apierrors.IsInternalError(err), err)
	_, err = c.List(ctx, ListQuery{})
	require.True(t, apierrors.IsInternalError(err), err)
	p, err := c.List(ctx, ListQuery{Namespace: "b"})
	require.NoError(t, err)
	require.Equal(t, []string{"good"}, names(p.Items))
	stream, err := c.Watch(ctx, WatchQuery{Namespace: "b", ResourceVersion: rv(p.Revision)})
	require.NoError(t, err)
	defer stream.Close()
	_, err = f.client.Put(ctx, "/registry/pods/b/bad", "nonsense")
	require.NoError(t, err)
	require.True(t, apierrors.IsInternalError(nextError(t, stream)))
}
