package media

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	rawcbor "github.com/fxamacker/cbor/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"

	"strconv"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// listing is a list that is being written.
type listing struct {
	kind  *kinds.Kind
	page  *objectstore.Page
	typed []byte // how the JSON of the kind's objects begins
}

// List writes a page of objects of a kind.
func (f *Format) List(w io.Writer, k *kinds.Kind, p *objectstore.Page, o Options) error {
	l := &listing{kind: k, page: p, typed: typePrefix(k)}
	switch f.shape {
	case table:
		t := f.tableOf(k, p.Items, o)
		t.ListMeta = l.meta()
		return f.writeAny(w, t)
	case metadata:
		return f.writeAny(w, f.metadataList(l))
	}
	switch f.media {
	case Protobuf:
		return l.protobuf(w)
	case CBOR:
		return l.cbor(w)
	case JSON:
		if !f.pretty {
			return l.json(w)
		}
	}
	var b bytes.Buffer
	if err := l.json(&b); err != nil {
		return err
	}
	out := f.finish(b.Bytes())
	if f.media == YAML {
		y, err := yaml.JSONToYAML(out)
		if err != nil {
			return err
		}
		out = y
	}
	_, err := w.Write(out)
	return err
}

func (f *Format) writeAny(w io.Writer, o runtime.Object) error {
	b, err := f.Any(o)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func (l *listing) meta() metav1.ListMeta {
	return metav1.ListMeta{ResourceVersion: strconv.FormatInt(l.page.Revision, 10), Continue: l.page.Continue, RemainingItemCount: l.page.Remaining}
}

func (l *listing) listKind() schema.GroupVersionKind {
	return l.kind.GroupVersion().WithKind(l.kind.Kind + "List")
}

func (l *listing) json(w io.Writer) error {
	meta, err := json.Marshal(l.meta())
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, l.listKind().Kind, l.kind.GroupVersion().String(), meta); err != nil {
		return err
	}
	open := []byte{','}
	for i, it := range l.page.Items {
		b, err := l.item(it)
		if err != nil {
			return err
		}
		sep := open
		if i == 0 {
			sep = nil
		}
		if b[0] != '{' {
			sep = append(sep[:len(sep):len(sep)], '{')
		}
		if _, err := w.Write(sep); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, "]}\n")
	return err
}

// Tags of the fields of a list's message.
const (
	protoMetadata = 1<<3 | 2
	protoItems    = 2<<3 | 2
)

func (l *listing) protobuf(w io.Writer) error {
	meta := l.meta()
	m, err := meta.Marshal()
	if err != nil {
		return err
	}
	items := make([][]byte, len(l.page.Items))
	head := append(putLength([]byte{protoMetadata}, len(m)), m...)
	size := len(head)
	for i, it := range l.page.Items {
		if items[i], err = it.Encoded(formProto, encodeProto); err != nil {
			return err
		}
		size += 1 + lengthBytes(len(items[i])) + len(items[i])
	}
	start, end, err := around(l.listKind())
	if err != nil {
		return err
	}
	start = putLength(start, size)
	if _, err := w.Write(append(start, head...)); err != nil {
		return err
	}
	var lead []byte
	for _, b := range items {
		lead = putLength(append(lead[:0], protoItems), len(b))
		if _, err := w.Write(lead); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	_, err = w.Write(end)
	return err
}

// around returns what stands in an envelope before the size of a message, and after the message.
func around(gvk schema.GroupVersionKind) (start, end []byte, err error) {
	const raw = 2<<3 | 2 // runtime.Unknown's field of the message
	u := runtime.Unknown{}
	u.APIVersion, u.Kind = gvk.ToAPIVersionAndKind()
	b, err := u.Marshal()
	if err != nil {
		return nil, nil, err
	}
	// The type comes first, the fields behind the message are empty texts.
	typeSize := 1 + len(putLength(nil, u.TypeMeta.Size())) + u.TypeMeta.Size()
	start = append([]byte(protoMagic), b[:typeSize]...)
	return append(start, raw), b[typeSize:], nil
}

func (l *listing) cbor(w io.Writer) error {
	items := make([]rawcbor.RawMessage, len(l.page.Items))
	for i, it := range l.page.Items {
		b, err := it.Encoded(formCBORItem, encodeCBORItem)
		if err != nil {
			return err
		}
		items[i] = b
	}
	b, err := cbor.Marshal(map[string]any{
		"kind": l.listKind().Kind, "apiVersion": l.kind.GroupVersion().String(), "metadata": l.meta(), "items": items,
	})
	if err != nil {
		return err
	}
	_, err = w.Write(append(bytes.Clone(cborTag), bytes.TrimPrefix(b, cborTag)...))
	return err
}
