package crd

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

type fieldErrors = field.ErrorList

// validate returns what is wrong with a new object.
func (v *version) validate(u *unstructured.Unstructured) fieldErrors {
	if errs := v.validateType(u); len(errs) > 0 {
		return errs
	}
	errs := schemavalidation.ValidateCustomResource(nil, u.UnstructuredContent(), v.validator)
	errs = append(errs, v.validateScale(u, true)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, u.Object, v.schema, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, v.schema, u.Object)...)
	return v.obey(errs, u.Object, nil)
}

// validateUpdate returns what is wrong with an object, except for what was wrong in the same place before.
func (v *version) validateUpdate(u, old *unstructured.Unstructured) fieldErrors {
	if errs := v.validateType(u); len(errs) > 0 {
		return errs
	}
	changes := common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: v.schema})
	errs := schemavalidation.ValidateCustomResourceUpdate(nil, u.UnstructuredContent(), old.UnstructuredContent(), v.validator, schemavalidation.WithRatcheting(changes))
	errs = append(errs, v.validateScale(u, true)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, u.Object, v.schema, false)...)
	errs = append(errs, v.validateLists(u, old)...)
	return v.obey(errs, u.Object, old.Object, cel.WithRatcheting(changes))
}

// validateStatus is validateUpdate for a change of the status alone.
func (v *version) validateStatus(u, old *unstructured.Unstructured) fieldErrors {
	if errs := v.validateType(u); len(errs) > 0 {
		return errs
	}
	changes := common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: v.schema})
	var errs fieldErrors
	if status, ok := u.Object["status"]; ok && v.status != nil {
		errs = schemavalidation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Object["status"], v.status,
			schemavalidation.WithRatcheting(changes.Key("status")))
	}
	errs = append(errs, v.validateScale(u, false)...)
	errs = append(errs, v.validateLists(u, old)...)
	return v.obey(errs, u.Object, old.Object, cel.WithRatcheting(changes))
}

func (v *version) validateType(u *unstructured.Unstructured) (errs fieldErrors) {
	if kind := u.GetKind(); kind != v.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), kind, "must be "+v.Kind))
	}
	if want := v.GroupVersion().String(); u.GetAPIVersion() != want {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), u.GetAPIVersion(), "must be "+want))
	}
	return errs
}

// validateLists demands that lists which are maps or sets have no key twice, if they had none before.
func (v *version) validateLists(u, old *unstructured.Unstructured) fieldErrors {
	errs := listtype.ValidateListSetsAndMaps(nil, v.schema, u.Object)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, v.schema, old.Object)) > 0 {
		return nil
	}
	return errs
}

// obey adds to errors what rules in CEL say. They are not asked about objects of which they may expect more than there is.
func (v *version) obey(errs fieldErrors, o, old map[string]any, opts ...cel.Option) fieldErrors {
	rules := v.rules()
	if rules == nil {
		return errs
	}
	if slices.ContainsFunc(errs, blocks) {
		return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	more, _ := rules.Validate(context.Background(), nil, v.schema, o, old, celconfig.RuntimeCELCostBudget, opts...)
	return append(errs, more...)
}

func blocks(err *field.Error) bool {
	switch err.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

// validateScale checks the fields that the subresource scale shows.
func (v *version) validateScale(u *unstructured.Unstructured, spec bool) (errs fieldErrors) {
	s := v.scale()
	if s == nil {
		return nil
	}
	if spec {
		errs = append(errs, validateReplicas(u, s.SpecReplicasPath)...)
	}
	errs = append(errs, validateReplicas(u, s.StatusReplicasPath)...)
	if s.LabelSelectorPath != nil {
		if text, _, err := unstructured.NestedString(u.Object, path(*s.LabelSelectorPath)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*s.LabelSelectorPath), text, err.Error()))
		}
	}
	return errs
}

func validateReplicas(u *unstructured.Unstructured, at string) fieldErrors {
	n, _, err := unstructured.NestedInt64(u.Object, path(at)...)
	switch {
	case err != nil:
		return fieldErrors{field.Invalid(field.NewPath(at), n, err.Error())}
	case n < 0:
		return fieldErrors{field.Invalid(field.NewPath(at), n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return fieldErrors{field.Invalid(field.NewPath(at), n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}

// scale reads and writes those fields.
func scale(s *apiextensionsv1.CustomResourceSubresourceScale) *kinds.Scale {
	number := func(o kinds.Object, at string) int32 {
		n, _, err := unstructured.NestedInt64(content(o).Object, path(at)...)
		if err != nil || n < 0 || n > math.MaxInt32 {
			return 0
		}
		return int32(n)
	}
	return &kinds.Scale{
		Replicas: func(o kinds.Object) int32 { return number(o, s.SpecReplicasPath) },
		SetReplicas: func(o kinds.Object, n int32) {
			// It fails only where something else than an object is in the way, which validation finds.
			_ = unstructured.SetNestedField(content(o).Object, int64(n), path(s.SpecReplicasPath)...)
		},
		Observed: func(o kinds.Object) int32 { return number(o, s.StatusReplicasPath) },
		Selector: func(o kinds.Object) string {
			if s.LabelSelectorPath == nil {
				return ""
			}
			text, _, _ := unstructured.NestedString(content(o).Object, path(*s.LabelSelectorPath)...)
			return text
		},
	}
}

// warnings are about names of new finalizers that others may have, too.
func warnings(o, old kinds.Object) (out []string) {
	names := slices.Clone(o.GetFinalizers())
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if old == nil || !slices.Contains(old.GetFinalizers(), name) {
			out = append(out, finalizerWarnings(name)...)
		}
	}
	return out
}

func finalizerWarnings(name string) (out []string) {
	warn := func(text string) { out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", name, text)) }
	for _, text := range utilvalidation.IsQualifiedName(name) {
		warn(text)
	}
	switch {
	case strings.Contains(name, "/"), name == metav1.FinalizerOrphanDependents, name == metav1.FinalizerDeleteDependents, name == string(corev1.FinalizerKubernetes):
	case strings.Contains(name, "."):
		warn("prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers")
	default:
		warn("prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers")
	}
	return out
}
