package media

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// The names under which items keep their encoded forms.
const (
	formJSON     = "json"     // with type
	formProto    = "protobuf" // the message alone
	formCBOR     = "cbor"     // with type, without the tag that describes it
	formCBORItem = "cbor-item"
)

// cborTag says of what follows that it is CBOR.
var cborTag = []byte{0xd9, 0xd9, 0xf7}

// Any encodes an object that is not kept by an item. Its type must be set.
func (f *Format) Any(o runtime.Object) ([]byte, error) {
	switch f.media {
	case Protobuf:
		m, ok := o.(message)
		if !ok {
			return nil, errNoProtobuf
		}
		b, err := m.Marshal()
		if err != nil {
			return nil, err
		}
		return envelope(o.GetObjectKind().GroupVersionKind(), b)
	case CBOR:
		b, err := cbor.Marshal(o)
		return append(bytes.Clone(cborTag), bytes.TrimPrefix(b, cborTag)...), err
	case YAML:
		return yaml.Marshal(o)
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return f.finish(b), nil
}

// finish indents JSON if a person reads it, and ends it with a line.
func (f *Format) finish(b []byte) []byte {
	if f.pretty {
		var out bytes.Buffer
		if json.Indent(&out, b, "", "  ") == nil {
			b = out.Bytes()
		}
	}
	if f.stream || len(b) > 0 && b[len(b)-1] == '\n' {
		return b
	}
	return append(b[:len(b):len(b)], '\n')
}

// envelope wraps a message as kube-apiserver does.
func envelope(gvk schema.GroupVersionKind, raw []byte) ([]byte, error) {
	u := runtime.Unknown{Raw: raw}
	u.APIVersion, u.Kind = gvk.ToAPIVersionAndKind()
	out := make([]byte, len(protoMagic)+u.Size())
	copy(out, protoMagic)
	_, err := u.MarshalTo(out[len(protoMagic):])
	return out, err
}

// Object encodes an item of a kind.
func (f *Format) Object(k *kinds.Kind, it *objectstore.Item, o Options) ([]byte, error) {
	switch f.shape {
	case table:
		return f.Any(f.tableOf(k, []*objectstore.Item{it}, o))
	case metadata:
		return f.Any(f.metadataOf(it))
	}
	switch f.media {
	case Protobuf:
		b, err := it.Encoded(formProto, encodeProto)
		if err != nil {
			return nil, err
		}
		return envelope(k.GroupVersionKind, b)
	case CBOR:
		b, err := it.Encoded(formCBOR, encodeCBOR)
		return append(bytes.Clone(cborTag), b...), err
	case YAML:
		b, err := it.Encoded(formJSON, encodeJSON)
		if err != nil {
			return nil, err
		}
		return yaml.JSONToYAML(b)
	}
	b, err := it.Encoded(formJSON, encodeJSON)
	if err != nil {
		return nil, err
	}
	return f.finish(b), nil
}

func encodeJSON(o kinds.Object) ([]byte, error) { return json.Marshal(o) }

func encodeProto(o kinds.Object) ([]byte, error) {
	m, ok := o.(message)
	if !ok {
		return nil, errNoProtobuf
	}
	return m.Marshal()
}

func encodeCBOR(o kinds.Object) ([]byte, error) {
	b, err := cbor.Marshal(o)
	return bytes.TrimPrefix(b, cborTag), err
}

func encodeCBORItem(o kinds.Object) ([]byte, error) { return encodeCBOR(untyped(o)) }

// untyped returns an object without its type, as lists hold it; custom resources keep theirs.
func untyped(o kinds.Object) kinds.Object {
	v := reflect.ValueOf(o)
	if _, free := o.(runtime.Unstructured); free || v.Kind() != reflect.Pointer {
		return o
	}
	c := reflect.New(v.Type().Elem())
	c.Elem().Set(v.Elem())
	out := c.Interface().(kinds.Object)
	out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return out
}

// item returns the JSON of an item as an element of a list. That of a typed object begins with its type.
func (l *listing) item(it *objectstore.Item) ([]byte, error) {
	b, err := it.Encoded(formJSON, encodeJSON)
	if err != nil {
		return nil, err
	}
	if _, free := it.Object.(runtime.Unstructured); free {
		return b, nil
	}
	rest, ok := bytes.CutPrefix(b, l.typed)
	if !ok {
		return json.Marshal(untyped(it.Object))
	}
	if rest[0] == ',' {
		return rest[1:], nil // the caller adds "{"
	}
	return rest, nil
}

// typePrefix is how the JSON of a typed object begins.
func typePrefix(k *kinds.Kind) []byte {
	return fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q`, k.Kind, k.GroupVersion().String())
}

func putLength(b []byte, n int) []byte { return binary.AppendUvarint(b, uint64(n)) }

// lengthBytes is how many bytes putLength appends.
func lengthBytes(n int) int { return (bits.Len64(uint64(n)|1) + 6) / 7 }
