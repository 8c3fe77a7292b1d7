package patch

import (
	"reflect"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// lean is a TypeConverter that does less for the same result, because it stands on the path of every write:
//
//   - managed fields are left out: the field manager takes them from the object itself before, puts others in their place
//     after, and drops from its sets what is said about them. Each of them would be parsed as JSON.
//   - structs are not validated: what does not fit their schema would not fit into their type. What could be wrong
//     nevertheless, list items without their key, fails when objects are compared.
type lean struct {
	managedfields.TypeConverter
	types *sync.Map // schema.GroupVersionKind -> typed.ParseableType
}

func newLean(tc managedfields.TypeConverter) lean { return lean{tc, &sync.Map{}} }

// ObjectToTyped implements managedfields.TypeConverter.
func (l lean) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if u, free := o.(*unstructured.Unstructured); free {
		return l.TypeConverter.ObjectToTyped(unmanaged(u), opts...)
	}
	v := reflect.ValueOf(o)
	t, ok := l.typeOf(o.GetObjectKind().GroupVersionKind(), v.Type())
	if !ok {
		return l.TypeConverter.ObjectToTyped(o, opts...)
	}
	if m, ok := o.(metav1.Object); ok && len(m.GetManagedFields()) > 0 {
		c := reflect.New(v.Type().Elem())
		c.Elem().Set(v.Elem())
		c.Interface().(metav1.Object).SetManagedFields(nil)
		v = c
	}
	content, err := value.NewValueReflect(v.Interface())
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 validation is a third of the cost of a write, and finds nothing in a struct
	return typed.AsTypedUnvalidated(content, t.Schema, t.TypeRef), nil
}

// typeOf is what the converter takes objects of a struct type for.
func (l lean) typeOf(gvk schema.GroupVersionKind, t reflect.Type) (typed.ParseableType, bool) {
	if known, ok := l.types.Load(gvk); ok {
		return known.(typed.ParseableType), true
	}
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return typed.ParseableType{}, false
	}
	empty, ok := reflect.New(t.Elem()).Interface().(runtime.Object)
	if !ok {
		return typed.ParseableType{}, false
	}
	empty.GetObjectKind().SetGroupVersionKind(gvk)
	v, err := l.TypeConverter.ObjectToTyped(empty)
	if err != nil {
		return typed.ParseableType{}, false
	}
	p := typed.ParseableType{Schema: v.Schema(), TypeRef: v.TypeRef()}
	l.types.Store(gvk, p)
	return p, true
}

// unmanaged is a free object without managed fields; all else is shared.
func unmanaged(u *unstructured.Unstructured) *unstructured.Unstructured {
	meta, ok := u.Object["metadata"].(map[string]any)
	if _, managed := meta["managedFields"]; !ok || !managed {
		return u
	}
	out := make(map[string]any, len(u.Object))
	for k, v := range u.Object {
		out[k] = v
	}
	rest := make(map[string]any, len(meta))
	for k, v := range meta {
		if k != "managedFields" {
			rest[k] = v
		}
	}
	out["metadata"] = rest
	return &unstructured.Unstructured{Object: out}
}
