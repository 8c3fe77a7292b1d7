package objectstore

import (
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Item is one state of one object. It is shared by everyone who reads it and never changes.
type Item struct {
	// Object has its resourceVersion and its type set. Nobody may change it.
	Object kinds.Object
	// Revision is the store's revision of the write that made this state.
	Revision int64
	// Key is where the object is stored.
	Key string

	size   int    // of the stored value
	sum    uint64 // of the stored value in the clear
	stale  bool   // stored otherwise than it would be now
	broken error  // why the value cannot be read; Object is nil then

	kind   *kinds.Kind
	fields atomic.Pointer[map[string]string]
	forms  atomic.Pointer[form]
	views  atomic.Pointer[view]
}

// NewItem makes an item of an object that is not stored in this state, as the answer to a dry run. The object becomes the
// callee's. Revision 0 leaves it without a resourceVersion.
func NewItem(o kinds.Object, revision int64) *Item {
	setRevision(o, revision)
	return &Item{Object: o, Revision: revision}
}

func setRevision(o kinds.Object, revision int64) {
	rv := ""
	if revision > 0 {
		rv = strconv.FormatInt(revision, 10)
	}
	o.SetResourceVersion(rv)
}

// form is one encoded form of an item, in a list that only grows.
type form struct {
	name string
	get  func() ([]byte, error)
	next *form
}

// Encoded returns the item in a form. encode is called once for each form of the item, whoever asks; those who ask
// meanwhile wait for it. The bytes are shared: nobody may change them.
func (i *Item) Encoded(name string, encode func(kinds.Object) ([]byte, error)) ([]byte, error) {
	for {
		head := i.forms.Load()
		for f := head; f != nil; f = f.next {
			if f.name == name {
				return f.get()
			}
		}
		f := &form{name: name, next: head, get: sync.OnceValues(func() ([]byte, error) { return encode(i.Object) })}
		if i.forms.CompareAndSwap(head, f) {
			return f.get()
		}
	}
}

// view is an item as another kind, in a list that only grows.
type view struct {
	item *Item
	next *view
}

// as returns the item as a kind that is stored as the item's.
func (i *Item) as(k *kinds.Kind) (*Item, error) {
	if i.broken != nil {
		return nil, unreadable(i)
	}
	if k.Stored == nil {
		return i, nil
	}
	if v := i.seen(k); v != nil {
		return v, nil
	}
	if err := convert(k, i); err != nil {
		return nil, err
	}
	return i.seen(k), nil
}

// seen returns the item as a kind if it was converted before, otherwise nil.
func (i *Item) seen(k *kinds.Kind) *Item {
	for v := i.views.Load(); v != nil; v = v.next {
		if v.item.kind == k {
			return v.item
		}
	}
	return nil
}

// convert makes views of items, as a kind that is stored as theirs. They can be read.
func convert(k *kinds.Kind, items ...*Item) error {
	objects := make([]kinds.Object, len(items))
	for n, i := range items {
		objects[n] = i.Object
	}
	objects, err := k.Stored.From(objects...)
	if err != nil {
		return failed(err)
	}
	if len(objects) != len(items) {
		return failed(errConverted)
	}
	for n, i := range items {
		i.show(k, objects[n])
	}
	return nil
}

// show makes a view of an object, unless somebody else was faster.
func (i *Item) show(k *kinds.Kind, o kinds.Object) {
	if o != i.Object {
		o.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
		setRevision(o, i.Revision)
	}
	v := &view{item: &Item{Object: o, Revision: i.Revision, Key: i.Key, size: i.size, kind: k}}
	for {
		v.next = i.views.Load()
		if i.seen(k) != nil || i.views.CompareAndSwap(v.next, v) {
			return
		}
	}
}

// prepare converts those of some items that were not converted before, all at once.
func prepare(k *kinds.Kind, items []*Item) error {
	if k.Stored == nil {
		return nil
	}
	var fresh []*Item
	for _, i := range items {
		if i.broken == nil && i.seen(k) == nil {
			fresh = append(fresh, i)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return convert(k, fresh...)
}

// at returns the item as the last state of an object that went at a revision.
func (i *Item) at(revision int64) *Item {
	if i.broken != nil {
		return i
	}
	o := shallow(i.Object)
	setRevision(o, revision)
	return &Item{Object: o, Revision: revision, Key: i.Key, size: i.size, kind: i.kind}
}

// shallow copies an object so that its resourceVersion can be set.
func shallow(o kinds.Object) kinds.Object {
	v := reflect.ValueOf(o)
	if _, ok := o.(runtime.Unstructured); ok || v.Kind() != reflect.Pointer {
		return o.DeepCopyObject().(kinds.Object)
	}
	c := reflect.New(v.Type().Elem())
	c.Elem().Set(v.Elem())
	return c.Interface().(kinds.Object)
}

// Has says whether an item has a field that can be selected. With Get it makes an Item fields.Fields.
func (i *Item) Has(field string) bool {
	switch field {
	case "metadata.name":
		return true
	case "metadata.namespace":
		return i.kind == nil || i.kind.Namespaced
	}
	_, ok := i.selectable()[field]
	return ok
}

// Get returns the value of a field that can be selected.
func (i *Item) Get(field string) string {
	switch field {
	case "metadata.name":
		return i.Object.GetName()
	case "metadata.namespace":
		return i.Object.GetNamespace()
	}
	return i.selectable()[field]
}

func (i *Item) selectable() map[string]string {
	if i.kind == nil || i.kind.Fields == nil {
		return nil
	}
	if m := i.fields.Load(); m != nil {
		return *m
	}
	m := i.kind.Fields(i.Object)
	i.fields.Store(&m) // who else computes it finds the same
	return m
}

func (i *Item) labels() labels.Set { return i.Object.GetLabels() }
