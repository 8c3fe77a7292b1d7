package kinds

import (
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
)

// Part is a part of the objects of a kind: their spec, their status.
type Part interface {
	// Copy gives an object the part of another one, which keeps its own.
	Copy(o, from Object)
	// Clear empties the part.
	Clear(o Object)
	// Same says whether it is the same in two objects.
	Same(a, b Object) bool
}

// PartAt is the part to which of returns a pointer.
func PartAt(of func(o Object) any) Part { return pointer(of) }

type pointer func(o Object) any

func (p pointer) Copy(o, from Object) {
	reflect.ValueOf(p(o)).Elem().Set(reflect.ValueOf(p(from.DeepCopyObject().(Object))).Elem())
}

func (p pointer) Clear(o Object) { reflect.ValueOf(p(o)).Elem().SetZero() }

func (p pointer) Same(a, b Object) bool { return equality.Semantic.DeepEqual(p(a), p(b)) }
