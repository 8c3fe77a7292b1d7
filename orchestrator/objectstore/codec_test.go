package objectstore

import (
	"bytes"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Values are, byte for byte, what Kubernetes' own serializer writes.
func TestEnvelopeIsKubernetes(t *testing.T) {
	scheme := runtime.NewScheme()
	require.NoError(t, corev1.AddToScheme(scheme))
	theirs := protobuf.NewSerializer(scheme, scheme)
	p := pod("a", "x", "k", "v")
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	p.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Pod"})
	var want bytes.Buffer
	require.NoError(t, theirs.Encode(p.DeepCopy(), &want))
	c := newCodec(podKind())
	p.ResourceVersion = "5"
	p.SetSelfLink("/x")
	got, err := c.encode(p)
	require.NoError(t, err)
	require.Equal(t, want.Bytes(), got)

	o, err := c.decode(got)
	require.NoError(t, err)
	require.Equal(t, p, o)
	text, err := json.Marshal(p)
	require.NoError(t, err)
	o, err = c.decode(text)
	require.NoError(t, err)
	require.Equal(t, p.Spec, o.(*corev1.Pod).Spec)

	_, err = newCodec(nodeKind()).decode(got)
	require.ErrorIs(t, err, errKind)
	_, err = newCodec(widgetKind()).decode(text)
	require.ErrorIs(t, err, errKind)
}

func TestDefaultsOnReading(t *testing.T) {
	k := podKind()
	k.Default = func(o kinds.Object) { o.(*corev1.Pod).Spec.SchedulerName = "default" }
	value, err := newCodec(podKind()).encode(pod("a", "x"))
	require.NoError(t, err)
	o, err := newCodec(k).decode(value)
	require.NoError(t, err)
	require.Equal(t, "default", o.(*corev1.Pod).Spec.SchedulerName)
}

func TestEncodedOnce(t *testing.T) {
	it := NewItem(pod("a", "x"), 7)
	require.Equal(t, "7", it.Object.GetResourceVersion())
	var calls atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			form := []string{"json", "yaml"}[i%2]
			b, err := it.Encoded(form, func(o kinds.Object) ([]byte, error) {
				calls.Add(1)
				return []byte(form + o.GetName()), nil
			})
			if err != nil || string(b) != form+"x" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, int32(2), calls.Load())
	require.Empty(t, NewItem(pod("a", "x"), 0).Object.GetResourceVersion())
}

func FuzzDecode(f *testing.F) {
	c, w := newCodec(podKind()), newCodec(widgetKind())
	value, err := c.encode(pod("a", "x", "k", "v"))
	require.NoError(f, err)
	f.Add(value)
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}`))
	f.Add([]byte(`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":3}}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		for _, c := range []codec{c, w} {
			if it := c.item("/k", value, 3); it.broken == nil {
				require.Equal(t, "3", it.Object.GetResourceVersion())
				_, err := c.encode(it.Object)
				require.NoError(t, err)
			}
		}
	})
}

func FuzzContinue(f *testing.F) {
	f.Add(encodeContinue("/registry/pods/a/x\x00", "/registry/pods/", 5))
	f.Add("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9uIn0")
	f.Fuzz(func(t *testing.T, token string) {
		key, revision, err := decodeContinue(token, "/registry/pods/")
		if err != nil {
			return
		}
		require.NotZero(t, revision)
		require.GreaterOrEqual(t, key, "/registry/pods/")
		again, r, err := decodeContinue(encodeContinue(key, "/registry/pods/", revision), "/registry/pods/")
		require.NoError(t, err)
		require.Equal(t, key, again)
		require.Equal(t, revision, r)
	})
}
