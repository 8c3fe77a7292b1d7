package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"

	rawcbor "github.com/fxamacker/cbor/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// AppendEvent appends a watch event in its frame: a line of JSON, a length of four bytes and a protobuf message, or an item
// of a CBOR sequence.
func (f *Format) AppendEvent(b []byte, k *kinds.Kind, e objectstore.Event, o Options) ([]byte, error) {
	if e.Item != nil && f.media == Protobuf && f.shape == whole {
		return f.appendMessage(b, k, e)
	}
	object, err := f.eventObject(k, e, o)
	if err != nil {
		return b, err
	}
	switch f.media {
	case Protobuf:
		ev := metav1.WatchEvent{Type: string(e.Type), Object: runtime.RawExtension{Raw: object}}
		m, err := ev.Marshal()
		if err != nil {
			return b, err
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(m)))
		return append(b, m...), nil
	case CBOR:
		m, err := cbor.Marshal(map[string]any{"type": string(e.Type), "object": rawcbor.RawMessage(bytes.TrimPrefix(object, cborTag))})
		if err != nil {
			return b, err
		}
		return append(append(b, cborTag...), bytes.TrimPrefix(m, cborTag)...), nil
	}
	b = append(append(b, `{"type":"`...), e.Type...)
	b = append(append(b, `","object":`...), bytes.TrimRight(object, "\n")...)
	return append(b, "}\n"...), nil
}

// Tags of the fields of a watch event's message, and of what holds its object.
const (
	protoEventType   = 1<<3 | 2
	protoEventObject = 2<<3 | 2
	protoRaw         = 1<<3 | 2
)

// appendMessage appends an event whose object has its message already: it is copied once, into its frame.
func (f *Format) appendMessage(b []byte, k *kinds.Kind, e objectstore.Event) ([]byte, error) {
	m, err := e.Item.Encoded(formProto, encodeProto)
	if err != nil {
		return b, err
	}
	if f.start == nil {
		if f.start, f.end, err = around(k.GroupVersionKind); err != nil {
			return b, err
		}
	}
	object := len(f.start) + lengthBytes(len(m)) + len(m) + len(f.end)
	raw := 1 + lengthBytes(object) + object
	size := 1 + lengthBytes(len(e.Type)) + len(e.Type) + 1 + lengthBytes(raw) + raw
	b = slices.Grow(b, 4+size)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(putLength(append(b, protoEventType), len(e.Type)), e.Type...)
	b = putLength(append(b, protoEventObject), raw)
	b = putLength(append(b, protoRaw), object)
	b = append(putLength(append(b, f.start...), len(m)), m...)
	return append(b, f.end...), nil
}

// eventObject encodes the object of an event.
func (f *Format) eventObject(k *kinds.Kind, e objectstore.Event, o Options) ([]byte, error) {
	switch e.Type {
	case watch.Bookmark:
		return f.bookmark(k, e, o)
	case watch.Error:
		return f.Any(StatusOf(e.Err))
	}
	return f.Object(k, e.Item, o)
}

// bookmark is an empty object with a resourceVersion.
func (f *Format) bookmark(k *kinds.Kind, e objectstore.Event, o Options) ([]byte, error) {
	obj := k.New()
	obj.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	obj.SetResourceVersion(strconv.FormatInt(e.Revision, 10))
	if e.InitialEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	switch f.shape {
	case metadata:
		return f.Any(&metav1.PartialObjectMetadata{TypeMeta: f.typeMeta("PartialObjectMetadata"), ObjectMeta: objectMeta(obj)})
	case table:
		t := f.tableOf(k, nil, o)
		t.ResourceVersion = obj.GetResourceVersion()
		t.Rows = []metav1.TableRow{{Object: runtime.RawExtension{Object: &metav1.PartialObjectMetadata{
			TypeMeta: f.typeMeta("PartialObjectMetadata"), ObjectMeta: objectMeta(obj)}}, Cells: []any{}}}
		return f.Any(t)
	}
	return f.Any(obj)
}

// StatusOf is an error as clients see it: what is no API error is an internal one.
func StatusOf(err error) *metav1.Status {
	var api apierrors.APIStatus
	if !errors.As(err, &api) {
		api = apierrors.NewInternalError(err)
	}
	s := api.Status()
	s.Kind, s.APIVersion = "Status", "v1"
	if s.Status == "" {
		s.Status = metav1.StatusFailure
	}
	return &s
}

// Status returns the form of errors that belongs to a form: whole and not streamed. f may be nil.
func (f *Format) Status() *Format {
	if f == nil {
		return &Format{media: JSON}
	}
	return &Format{media: f.media, pretty: f.pretty}
}
