package objectstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"

	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// magic begins a value that is an envelope: runtime.Unknown as protobuf.
const magic = "k8s\x00"

var (
	errKind      = errors.New("the stored object is of another kind")
	errConverted = errors.New("a conversion returned another number of objects than it was given")
	errMetadata  = errors.New("the stored object has no metadata")
)

// message is what generated protobuf types have.
type message interface {
	runtime.ProtobufMarshaller
	Size() int
	Unmarshal(data []byte) error
}

// codec turns the objects of a stored kind into values and back.
type codec struct {
	kind *kinds.Kind
	json bool
	seed maphash.Seed // of the sums by which values are compared
}

// newCodec chooses the encoding that kube-apiserver chooses: JSON for custom resources, and for the kinds that extend the
// API itself.
func newCodec(k *kinds.Kind) codec {
	o := k.New()
	_, free := o.(runtime.Unstructured)
	_, proto := o.(message)
	extension := k.Group == "apiextensions.k8s.io" || k.Group == "apiregistration.k8s.io"
	return codec{kind: k, json: free || !proto || extension, seed: maphash.MakeSeed()}
}

// encode returns the value of an object, which is left without resourceVersion and selfLink, and with its type. A custom
// resource keeps the apiVersion that it has.
func (c codec) encode(o kinds.Object) ([]byte, error) {
	o.SetResourceVersion("")
	o.SetSelfLink("")
	if _, free := o.(runtime.Unstructured); !free || o.GetObjectKind().GroupVersionKind().Version == "" {
		o.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	}
	if c.json {
		return c.encodeJSON(o)
	}
	m, ok := o.(message)
	if !ok {
		return nil, fmt.Errorf("%T cannot be stored as %s", o, c.kind.GroupVersionKind)
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: c.kind.GroupVersion().String(), Kind: c.kind.Kind}}
	// Room for the type, which is not longer than its text and a few bytes, for the size of what follows, and that.
	size := m.Size()
	out := make([]byte, len(magic)+unknown.Size()+size+16)
	copy(out, magic)
	n, err := unknown.NestedMarshalTo(out[len(magic):], m, uint64(size))
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", c.kind.Kind, err)
	}
	return out[:len(magic)+n], nil
}

func (c codec) encodeJSON(o kinds.Object) ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", c.kind.Kind, err)
	}
	if len(b) == 0 || b[len(b)-1] != '\n' { // kube-apiserver's encoder ends values so
		b = append(b, '\n')
	}
	return b, nil
}

// decode returns the object of a value, with defaults and without resourceVersion.
func (c codec) decode(value []byte) (kinds.Object, error) {
	o := c.kind.New()
	var err error
	if bytes.HasPrefix(value, []byte(magic)) {
		err = c.decodeEnvelope(value[len(magic):], o)
	} else {
		err = c.decodeJSON(value, o)
	}
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", c.kind.Kind, err)
	}
	if c.kind.Default != nil {
		c.kind.Default(o)
	}
	return o, nil
}

func (c codec) decodeEnvelope(data []byte, o kinds.Object) error {
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(data); err != nil {
		return err
	}
	if unknown.Kind != c.kind.Kind {
		return fmt.Errorf("%w: %s %s", errKind, unknown.APIVersion, unknown.Kind)
	}
	m, ok := o.(message)
	if !ok {
		return fmt.Errorf("%w: %T is never protobuf", errKind, o)
	}
	if err := m.Unmarshal(unknown.Raw); err != nil {
		return err
	}
	o.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	return nil
}

// decodeJSON keeps the apiVersion of a custom resource: its conversion has to know which version was stored.
func (c codec) decodeJSON(data []byte, o kinds.Object) error {
	u, free := o.(runtime.Unstructured)
	if free {
		var content map[string]any
		if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &content); err != nil {
			return err
		}
		if _, ok := content["metadata"].(map[string]any); !ok {
			return errMetadata
		}
		u.SetUnstructuredContent(content)
	} else if err := kjson.UnmarshalCaseSensitivePreserveInts(data, o); err != nil {
		return err
	}
	if gvk := o.GetObjectKind().GroupVersionKind(); gvk.Kind != c.kind.Kind {
		return fmt.Errorf("%w: %s", errKind, gvk)
	}
	if !free {
		o.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	}
	return nil
}

// item makes the item of a value in the clear.
func (c codec) item(key string, value []byte, revision int64) *Item {
	it := &Item{Revision: revision, Key: key, size: len(value), sum: maphash.Bytes(c.seed, value), kind: c.kind}
	o, err := c.decode(value)
	if err != nil {
		it.broken = err
		return it
	}
	setRevision(o, revision)
	it.Object = o
	return it
}

// same says that an item was stored as a value.
func (c codec) same(it *Item, value []byte) bool {
	return it.size == len(value) && it.sum == maphash.Bytes(c.seed, value)
}
