package objectstore

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// gadgets are widgets of another version, converted by code that can be made to fail.
type gadgets struct {
	kind  *kinds.Kind
	err   error
	short bool  // return too little
	calls []int // objects in each conversion
}

func newGadgets(stored *kinds.Kind) *gadgets {
	g := &gadgets{}
	k := *stored
	k.Version = "v2"
	to := func(version string, o kinds.Object) kinds.Object {
		u := o.DeepCopyObject().(*unstructured.Unstructured)
		u.SetAPIVersion("example.com/" + version)
		return u
	}
	k.Stored = &kinds.Conversion{
		Kind: stored,
		To:   func(o kinds.Object) (kinds.Object, error) { return to("v1", o), g.err },
		From: func(o ...kinds.Object) ([]kinds.Object, error) {
			g.calls = append(g.calls, len(o))
			var out []kinds.Object
			for _, o := range o {
				out = append(out, to("v2", o))
			}
			if g.short {
				out = out[1:]
			}
			return out, g.err
		},
	}
	g.kind = &k
	return g
}

func gadget(name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget"}}
	u.SetNamespace("ns")
	u.SetName(name)
	return u
}

func TestConversions(t *testing.T) {
	s := start(t).store(t)
	stored := widgetKind()
	g := newGadgets(stored)
	v1, v2 := s.Collection(stored), s.Collection(g.kind)
	for _, name := range []string{"a", "b", "c"} {
		create(t, v1, gadget(name))
	}
	for range 2 {
		p, err := v2.List(ctx, ListQuery{})
		require.NoError(t, err)
		require.Equal(t, []string{"a", "b", "c"}, names(p.Items))
		for _, it := range p.Items {
			require.Equal(t, "v2", it.Object.GetObjectKind().GroupVersionKind().Version)
			require.Equal(t, rv(it.Revision), it.Object.GetResourceVersion())
		}
	}
	require.Equal(t, []int{3}, g.calls, "a list is converted at once, and once")
	g.calls = nil
	for _, name := range []string{"d", "e", "f"} {
		create(t, v1, gadget(name))
	}
	p, err := v2.List(ctx, ListQuery{Limit: 4})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c", "d"}, names(p.Items))
	require.Equal(t, []int{1}, g.calls, "what is not asked for is not converted")
}

func TestConversionsThatFail(t *testing.T) {
	s := start(t).store(t)
	stored := widgetKind()
	g := newGadgets(stored)
	v1, v2 := s.Collection(stored), s.Collection(g.kind)
	create(t, v1, gadget("a"))
	stream, err := v2.Watch(ctx, WatchQuery{})
	require.NoError(t, err)
	defer stream.Close()
	later, err := v2.Watch(ctx, WatchQuery{ResourceVersion: rv(create(t, v1, gadget("b")).Revision)})
	require.NoError(t, err)
	defer later.Close()

	g.err = errors.New("no way")
	fails := func(err error) {
		t.Helper()
		require.True(t, apierrors.IsInternalError(err), err)
		require.ErrorContains(t, err, "no way")
	}
	_, err = v2.Get(ctx, "ns", "a", "")
	fails(err)
	_, err = v2.List(ctx, ListQuery{})
	fails(err)
	_, err = v2.List(ctx, ListQuery{Labels: labels.SelectorFromSet(labels.Set{"a": "b"})})
	fails(err)
	_, err = v2.Create(ctx, gadget("c"))
	fails(err)
	_, err = v2.Update(ctx, "ns", "a", func(*Item) (kinds.Object, error) { t.Fatal("nothing to update"); return nil, nil })
	fails(err)
	_, err = v2.Delete(ctx, "ns", "a", func(*Item) error { t.Fatal("nothing to check"); return nil })
	fails(err)
	fails(nextError(t, stream))
	create(t, v1, gadget("d"))
	fails(nextError(t, later))
	known := apierrors.NewBadRequest("known")
	g.err = known
	_, err = v2.Get(ctx, "ns", "a", "")
	require.Equal(t, known, err)

	g.err, g.short = nil, true
	_, err = v2.Get(ctx, "ns", "a", "")
	require.ErrorContains(t, err, "another number of objects")
	g.short = false
	_, err = v2.Get(ctx, "ns", "a", "")
	require.NoError(t, err, "a failure is not kept")
}

// A custom resource keeps the version that it was stored in until it is converted.
func TestStoredVersionStays(t *testing.T) {
	s := start(t).store(t)
	c := s.Collection(widgetKind())
	old := gadget("a")
	old.SetAPIVersion("example.com/v0")
	create(t, c, old)
	it, err := c.Update(ctx, "ns", "a", func(cur *Item) (kinds.Object, error) {
		o := cur.Object.DeepCopyObject().(kinds.Object)
		o.SetFinalizers([]string{"x/y"})
		return o, nil
	})
	require.NoError(t, err)
	require.Equal(t, "v0", it.Object.GetObjectKind().GroupVersionKind().Version)
}
