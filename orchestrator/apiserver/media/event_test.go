package media

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

func configMaps(t testing.TB) *kinds.Kind {
	for _, k := range kinds.Builtin() {
		if k.Kind == "ConfigMap" {
			return k
		}
	}
	t.Fatal("there are no config maps")
	return nil
}

func item(n int) *objectstore.Item {
	return objectstore.NewItem(&corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "n", Namespace: "ns"},
		Data: map[string]string{"x": strings.Repeat("v", n)},
	}, 7)
}

// TestProtobufEvents frames objects of all lengths around those at which a length takes a byte more, as apimachinery does.
func TestProtobufEvents(t *testing.T) {
	k := configMaps(t)
	f := &Format{media: Protobuf, stream: true}
	for _, around := range []int{0, 128, 1 << 14, 1 << 21} {
		for n := max(0, around-200); n < around+10; n++ {
			if around == 1<<21 && n%19 != 0 {
				continue
			}
			it := item(n)
			got, err := f.AppendEvent([]byte("before"), k, objectstore.Event{Type: watch.Modified, Item: it, Revision: 7}, Options{})
			require.NoError(t, err)

			m, err := it.Object.(*corev1.ConfigMap).Marshal()
			require.NoError(t, err)
			raw, err := envelope(k.GroupVersionKind, m)
			require.NoError(t, err)
			want, err := (&metav1.WatchEvent{Type: "MODIFIED", Object: runtime.RawExtension{Raw: raw}}).Marshal()
			require.NoError(t, err)
			want = append(binary.BigEndian.AppendUint32([]byte("before"), uint32(len(want))), want...)
			require.True(t, string(want) == string(got), "a value of %d bytes", n)
		}
	}
}

func TestLengthBytes(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 1<<14 - 1, 1 << 14, 1<<21 - 1, 1 << 21, 1<<28 - 1, 1 << 28} {
		require.Len(t, putLength(nil, n), lengthBytes(n), n)
	}
}

func BenchmarkProtobufEvent(b *testing.B) {
	k, it := configMaps(b), item(1000)
	f := &Format{media: Protobuf, stream: true}
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		var err error
		if buf, err = f.AppendEvent(buf[:0], k, objectstore.Event{Type: watch.Modified, Item: it}, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
