package objectstore

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// fixture is a member with a client.
type fixture struct {
	*servertest.Cluster
	client *client.Client
}

func start(t testing.TB) *fixture {
	t.Helper()
	c := servertest.Start(t, 1, servertest.Quick()...)
	return &fixture{c, dial(t, c)}
}

func dial(t testing.TB, c *servertest.Cluster) *client.Client {
	t.Helper()
	cl, err := client.New(client.Config{Endpoints: c.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func (f *fixture) store(t testing.TB, change ...func(*Config)) *Store {
	t.Helper()
	cfg := Config{Client: f.client}
	for _, c := range change {
		c(&cfg)
	}
	s := New(cfg)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func podKind() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Pod"), Resource: "pods", Namespaced: true, Place: "pods",
		New: func() kinds.Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
		FieldNames: []string{"spec.nodeName", "status.phase"},
		Strategy: kinds.Strategy{Fields: func(o kinds.Object) map[string]string {
			p := o.(*corev1.Pod)
			return map[string]string{"spec.nodeName": p.Spec.NodeName, "status.phase": string(p.Status.Phase)}
		}},
	}
}

func nodeKind() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Node"), Resource: "nodes", Place: "minions",
		New: func() kinds.Object { return &corev1.Node{} }, NewList: func() runtime.Object { return &corev1.NodeList{} },
	}
}

func eventKind(ttl time.Duration) *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Event"), Resource: "events", Namespaced: true, Place: "events",
		New: func() kinds.Object { return &corev1.Event{} }, NewList: func() runtime.Object { return &corev1.EventList{} },
		Lifecycle: kinds.Lifecycle{TTL: ttl},
	}
}

// newEventKind is events.k8s.io's, which is stored as stored.
func newEventKind(stored *kinds.Kind) *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: eventsv1.SchemeGroupVersion.WithKind("Event"), Resource: "events", Namespaced: true, Place: "events",
		New: func() kinds.Object { return &eventsv1.Event{} }, NewList: func() runtime.Object { return &eventsv1.EventList{} },
		Stored: &kinds.Conversion{
			Kind: stored,
			To: func(o kinds.Object) (kinds.Object, error) {
				e := o.(*eventsv1.Event)
				return &corev1.Event{ObjectMeta: e.ObjectMeta, Message: e.Note}, nil
			},
			From: func(o ...kinds.Object) ([]kinds.Object, error) {
				out := make([]kinds.Object, len(o))
				for i := range o {
					e := o[i].(*corev1.Event)
					out[i] = &eventsv1.Event{ObjectMeta: e.ObjectMeta, Note: e.Message}
				}
				return out, nil
			},
		},
	}
}

func widgetKind() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"},
		Resource:         "widgets", Namespaced: true, Place: "example.com/widgets",
		New:     func() kinds.Object { return &unstructured.Unstructured{} },
		NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
	}
}

func pod(namespace, name string, labels ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for i := 0; i+1 < len(labels); i += 2 {
		metav1.SetMetaDataLabel(&p.ObjectMeta, labels[i], labels[i+1])
	}
	return p
}

func create(t testing.TB, c *Collection, o kinds.Object) *Item {
	t.Helper()
	it, err := c.Create(ctx, o)
	require.NoError(t, err)
	return it
}

// relabel sets a label of a pod.
func relabel(t testing.TB, c *Collection, namespace, name, key, value string) *Item {
	t.Helper()
	it, err := c.Update(ctx, namespace, name, func(cur *Item) (kinds.Object, error) {
		p := cur.Object.DeepCopyObject().(*corev1.Pod)
		metav1.SetMetaDataLabel(&p.ObjectMeta, key, value)
		return p, nil
	})
	require.NoError(t, err)
	return it
}

func names(items []*Item) []string {
	var out []string
	for _, it := range items {
		out = append(out, it.Object.GetName())
	}
	return out
}

func rv(revision int64) string { return strconv.FormatInt(revision, 10) }

// next returns n events of a stream, described.
func next(t testing.TB, s *Stream, n int) []string {
	t.Helper()
	var out []string
	for len(out) < n {
		c, cancel := context.WithTimeout(ctx, 10*time.Second)
		events, err := s.Next(c)
		cancel()
		require.NoError(t, err, "after %v", out)
		for _, e := range events {
			out = append(out, describe(e))
		}
	}
	return out
}

func describe(e Event) string {
	if e.Item == nil {
		return fmt.Sprintf("%s %d", e.Type, e.Revision)
	}
	return fmt.Sprintf("%s %s %s", e.Type, e.Item.Object.GetName(), e.Item.Object.GetResourceVersion())
}

// quiet says that a stream has nothing to tell.
func quiet(t testing.TB, s *Stream) {
	t.Helper()
	c, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	events, err := s.Next(c)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, events)
}

// nextError returns the error that ends a stream.
func nextError(t testing.TB, s *Stream) error {
	t.Helper()
	c, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if _, err := s.Next(c); err != nil {
			require.NoError(t, c.Err())
			return err
		}
	}
}
