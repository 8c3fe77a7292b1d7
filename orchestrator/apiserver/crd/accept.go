package crd

import (
	"errors"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// accept checks that a webhook returned the object that it was given, in a version, and undoes what it did to metadata but
// for labels and annotations.
func accept(o, converted *unstructured.Unstructured, apiVersion string) error {
	for _, f := range []struct{ what, want, have string }{
		{"groupVersion", apiVersion, converted.GetAPIVersion()},
		{"kind", o.GetKind(), converted.GetKind()},
	} {
		if f.want != f.have {
			return fmt.Errorf("invalid %s (expected %s, received %s)", f.what, f.want, f.have)
		}
	}
	for _, f := range []struct{ what, want, have string }{
		{"name", o.GetName(), converted.GetName()},
		{"namespace", o.GetNamespace(), converted.GetNamespace()},
		{"UID", string(o.GetUID()), string(converted.GetUID())},
	} {
		if f.want != f.have {
			return fmt.Errorf("must have the same %s: %s != %s", f.what, f.want, f.have)
		}
	}
	theirs, ok := converted.Object["metadata"].(map[string]any)
	if !ok {
		return errors.New("missing metadata in converted object")
	}
	ours, _ := runtime.DeepCopyJSONValue(o.Object["metadata"]).(map[string]any)
	if ours == nil {
		ours = map[string]any{}
	}
	converted.Object["metadata"] = ours
	labels, err := texts(theirs, "labels")
	if err != nil {
		return err
	}
	annotations, err := texts(theirs, "annotations")
	if err != nil {
		return err
	}
	var errs field.ErrorList
	if !maps.Equal(labels, o.GetLabels()) {
		errs = append(errs, metav1validation.ValidateLabels(labels, field.NewPath("metadata", "labels"))...)
		converted.SetLabels(labels)
	}
	if !maps.Equal(annotations, o.GetAnnotations()) {
		errs = append(errs, validation.ValidateAnnotations(annotations, field.NewPath("metadata", "annotations"))...)
		converted.SetAnnotations(annotations)
	}
	return errs.ToAggregate()
}

// texts is a field of metadata that maps strings to strings.
func texts(metadata map[string]any, name string) (map[string]string, error) {
	if metadata[name] == nil {
		return nil, nil
	}
	m, ok := metadata[name].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("invalid metadata.%s of type %T in converted object", name, metadata[name])
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		if out[k], ok = v.(string); !ok {
			return nil, fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, k, v)
		}
	}
	return out, nil
}
