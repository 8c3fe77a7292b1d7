package inventory

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func resource(group, name, kind string) Resource {
	return Resource{GroupVersionResource: schema.GroupVersionResource{Group: group, Version: "v1", Resource: name}, Kind: kind, Namespaced: true}
}

var (
	things      = resource("example.com", "things", "Thing")
	others      = resource("example.com", "others", "Other")
	definitions = resource("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition")
)

// world is an API server's metadata, and an inventory of it.
type world struct {
	*Inventory
	client *fake.FakeMetadataClient

	mu        sync.Mutex
	resources []Resource
	told      []string
	failed    int // discoveries
}

func start(t *testing.T, resources ...Resource) *world {
	scheme := fake.NewTestScheme()
	require.NoError(t, metav1.AddMetaToScheme(scheme))
	for _, r := range []Resource{things, others, definitions} {
		scheme.AddKnownTypeWithName(r.GroupVersionKind(), &Object{})
		scheme.AddKnownTypeWithName(r.GroupVersion().WithKind(r.Kind+"List"), &metav1.PartialObjectMetadataList{})
	}
	w := &world{client: fake.NewSimpleMetadataClient(scheme), resources: resources}
	w.Inventory = New(Config{Metadata: w.client, Clock: clock.Real, Resources: func() ([]Resource, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.resources == nil {
			w.failed++
			return nil, errors.New("discovery is down")
		}
		return append([]Resource(nil), w.resources...), nil
	}})
	note := func(what string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.told = append(w.told, what)
	}
	w.Handle(Handler{
		Seen:  func(r Resource, o *Object) { note("seen " + r.Kind + " " + o.Name) },
		Gone:  func(r Resource, o *Object) { note("gone " + r.Kind + " " + o.Name) },
		Found: func() { note("found") }, Listed: func() { note("listed") },
	})
	w.Handle(Handler{})
	return w
}

func (w *world) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func (w *world) set(resources ...Resource) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resources = resources
}

func (w *world) add(t *testing.T, r Resource, name string) {
	o := &Object{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"a": "b"}}}
	o.SetGroupVersionKind(r.GroupVersionKind())
	require.NoError(t, w.client.Tracker().Create(r.GroupVersionResource, o, "ns"))
}

func (w *world) tells(t *testing.T, want ...string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		w.mu.Lock()
		defer w.mu.Unlock()
		require.Equal(c, want, w.told)
	}, 20*time.Second, 2*time.Millisecond)
}

// TestFollows sees objects come and go, and resources that are defined while it runs.
func TestFollows(t *testing.T) {
	w := start(t, definitions, things)
	w.add(t, things, "a")
	w.run(t)
	<-w.Ready()
	w.tells(t, "found", "seen Thing a", "listed")
	all, known := w.Objects(things.GroupResource(), "ns")
	require.True(t, known)
	require.Len(t, all, 1)
	require.Empty(t, all[0].Labels, "nobody needs them")
	all, known = w.Objects(things.GroupResource(), "elsewhere")
	require.True(t, known)
	require.Empty(t, all)
	_, known = w.Objects(others.GroupResource(), "ns")
	require.False(t, known)

	w.add(t, others, "x")
	w.set(definitions, things, others)
	w.add(t, definitions, "others.example.com")
	w.tells(t, "found", "seen Thing a", "listed", "seen CustomResourceDefinition others.example.com", "found", "seen Other x", "listed")
	require.Len(t, w.Resources(), 3)

	require.NoError(t, w.client.Tracker().Delete(things.GroupVersionResource, "ns", "a"))
	w.tells(t, "found", "seen Thing a", "listed", "seen CustomResourceDefinition others.example.com", "found", "seen Other x", "listed", "gone Thing a")
	w.set(definitions, things)
	require.NoError(t, w.client.Tracker().Delete(definitions.GroupVersionResource, "ns", "others.example.com"))
	require.Eventually(t, func() bool { return len(w.Resources()) == 2 }, 20*time.Second, 2*time.Millisecond)
	_, known = w.Objects(others.GroupResource(), "ns")
	require.False(t, known)
}

// TestUnlistable becomes ready although a resource cannot be listed, as one whose conversion webhook is down.
func TestUnlistable(t *testing.T) {
	w := start(t, things, others)
	w.wait = 10 * time.Millisecond
	w.client.PrependReactor("list", "others", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("its webhook is down")
	})
	w.add(t, things, "a")
	w.run(t)
	select {
	case <-w.Ready():
	case <-time.After(20 * time.Second):
		require.Fail(t, "not ready")
	}
	require.Eventually(t, func() bool {
		all, known := w.Objects(things.GroupResource(), "ns")
		return known && len(all) == 1
	}, 20*time.Second, 2*time.Millisecond)
	_, known := w.Objects(others.GroupResource(), "ns")
	require.False(t, known)
}

// TestDiscoveryDown keeps what it has when discovery fails.
func TestDiscoveryDown(t *testing.T) {
	w := start(t, definitions, things)
	w.run(t)
	<-w.Ready()
	w.set()
	w.add(t, definitions, "x")
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.failed > 0
	}, 20*time.Second, 2*time.Millisecond)
	w.add(t, things, "a")
	w.tells(t, "found", "listed", "seen CustomResourceDefinition x", "seen Thing a")
}
