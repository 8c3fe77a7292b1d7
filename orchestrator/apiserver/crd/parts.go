package crd

import (
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// status is the status of an object.
type status struct{}

func (status) Copy(o, from kinds.Object) { set(content(o).Object, content(from).Object, "status") }

func (status) Clear(o kinds.Object) { delete(content(o).Object, "status") }

func (status) Same(a, b kinds.Object) bool {
	return equality.Semantic.DeepEqual(content(a).Object["status"], content(b).Object["status"])
}

// desired is all that an object is beside its type and its metadata, with or without its status.
type desired struct{ status bool }

// has says whether a field belongs to the part.
func (d desired) has(field string) bool {
	switch field {
	case "apiVersion", "kind", "metadata":
		return false
	case "status":
		return d.status
	}
	return true
}

func (d desired) Copy(o, from kinds.Object) {
	d.Clear(o)
	for field := range content(from).Object {
		if d.has(field) {
			set(content(o).Object, content(from).Object, field)
		}
	}
}

func (d desired) Clear(o kinds.Object) {
	for field := range content(o).Object {
		if d.has(field) {
			delete(content(o).Object, field)
		}
	}
}

func (d desired) Same(a, b kinds.Object) bool {
	return equality.Semantic.DeepEqual(d.of(a), d.of(b))
}

func (d desired) of(o kinds.Object) map[string]any {
	out := map[string]any{}
	for field, value := range content(o).Object {
		if d.has(field) {
			out[field] = value
		}
	}
	return out
}

// set gives an object the field of another one.
func set(o, from map[string]any, field string) {
	if value, ok := from[field]; ok {
		o[field] = runtime.DeepCopyJSONValue(value)
	} else {
		delete(o, field)
	}
}

// keepMetadata undoes what an update of the status changed in metadata, except for who manages which fields.
func keepMetadata(o, old kinds.Object) {
	managed := o.GetManagedFields()
	set(content(o).Object, content(old).Object, "metadata")
	o.SetManagedFields(managed)
}
