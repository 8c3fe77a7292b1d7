package kinds

import (
	"time"

	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// runtimeKinds are those of node.k8s.io.
func runtimeKinds() []*Kind {
	return []*Kind{with(Kind{
		GroupVersionKind: nodev1.SchemeGroupVersion.WithKind("RuntimeClass"), Resource: "runtimeclasses", Singular: "runtimeclass",
		Place: "runtimeclasses", New: func() Object { return &nodev1.RuntimeClass{} },
		NewList:    func() runtime.Object { return &nodev1.RuntimeClassList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{CreateOnUpdate: true},
		Columns: []metav1.TableColumnDefinition{nameColumn, textColumn("Handler", ""), ageColumn},
	}, Rules[*nodev1.RuntimeClass]{
		Row:      func(o *nodev1.RuntimeClass, now time.Time) []any { return []any{o.Name, o.Handler, age(o, now)} },
		Validate: validateRuntimeClass, Warnings: runtimeClassWarnings,
		ValidateUpdate: func(o, old *nodev1.RuntimeClass) field.ErrorList {
			var p problems
			p.fixed(field.NewPath("handler"), o.Handler, old.Handler)
			return p.list
		},
	})}
}
