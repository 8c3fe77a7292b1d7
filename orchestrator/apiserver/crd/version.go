package crd

import (
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// version is what a version of a definition says of its objects.
type version struct {
	kschema.GroupVersionKind
	spec     *apiextensionsv1.CustomResourceDefinitionVersion
	preserve bool               // keep what the schema does not know, as v1beta1 could have it
	schema   *schema.Structural // nil: anything goes

	validator validation.SchemaValidator
	status    validation.SchemaValidator // of the status alone; nil: the schema does not know it
	rules     func() *cel.Validator      // nil: there are none
}

// newVersion compiles a version, whose spec is shared and not changed.
func newVersion(gvk kschema.GroupVersionKind, spec *apiextensionsv1.CustomResourceDefinitionVersion, preserve bool) (*version, error) {
	v := &version{GroupVersionKind: gvk, spec: spec, preserve: preserve}
	var props *apiextensions.JSONSchemaProps
	if spec.Schema != nil && spec.Schema.OpenAPIV3Schema != nil {
		props = &apiextensions.JSONSchemaProps{}
		// The conversion shares memory with what it converts.
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(spec.Schema.OpenAPIV3Schema.DeepCopy(), props, nil); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", gvk.Version, err)
		}
	}
	if err := v.structure(props); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", gvk.Version, err)
	}
	var err error
	if v.validator, _, err = validation.NewSchemaValidator(props); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", gvk.Version, err)
	}
	if props != nil && v.hasStatus() {
		if status, ok := props.Properties["status"]; ok {
			if v.status, _, err = validation.NewSchemaValidator(&status); err != nil {
				return nil, fmt.Errorf("schema of the status of %s: %w", gvk.Version, err)
			}
		}
	}
	// Most versions of most definitions are never written to; rules take long to compile.
	v.rules = sync.OnceValue(func() *cel.Validator {
		if v.schema == nil {
			return nil
		}
		return cel.NewValidator(v.schema, true, celconfig.PerCallLimit)
	})
	return v, nil
}

func (v *version) structure(props *apiextensions.JSONSchemaProps) error {
	if props == nil {
		return nil
	}
	s, err := schema.NewStructural(props)
	switch {
	case err != nil && v.preserve:
		return nil
	case err != nil:
		return err
	}
	v.schema = s.DeepCopy() // the defaults are shared
	if v.preserve {
		return nil
	}
	return defaulting.PruneDefaults(v.schema)
}

func (v *version) hasStatus() bool {
	return v.spec.Subresources != nil && v.spec.Subresources.Status != nil
}

func (v *version) scale() *apiextensionsv1.CustomResourceSubresourceScale {
	if v.spec.Subresources == nil {
		return nil
	}
	return v.spec.Subresources.Scale
}

// coerce makes an object what decoding into a type would have made it: what the schema does not know is dropped, as are
// nulls that it does not allow. The paths of what is unknown are returned. Metadata of another form is dropped or an error.
func (v *version) coerce(u *unstructured.Unstructured, drop bool) (unknown []string, err error) {
	kind, apiVersion := u.GetKind(), u.GetAPIVersion()
	meta, hasMeta, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: drop, ReturnUnknownFieldPaths: true,
	})
	if err != nil {
		return nil, err
	}
	if !v.preserve {
		unknown = append(unknown, pruning.PruneWithOptions(u.Object, v.schema, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, v.schema)
	}
	problem, paths := objectmeta.CoerceWithOptions(nil, u.Object, v.schema, false, objectmeta.CoerceOptions{
		DropInvalidFields: drop, ReturnUnknownFieldPaths: true,
	})
	if problem != nil {
		return nil, problem
	}
	if kind != "" {
		u.SetKind(kind)
	}
	if apiVersion != "" {
		u.SetAPIVersion(apiVersion)
	}
	if hasMeta {
		if err := objectmeta.SetObjectMeta(u.Object, meta); err != nil {
			return nil, err
		}
	}
	return append(unknown, paths...), nil
}

// fill coerces an object as far as it can be, and fills in defaults.
func (v *version) fill(u *unstructured.Unstructured) {
	if _, err := v.coerce(u, true); err != nil {
		return // validation will say so
	}
	defaulting.Default(u.UnstructuredContent(), v.schema)
}

// repair does for stored objects what old servers left undone.
func repair(u *unstructured.Unstructured) {
	if m, ok := u.Object["metadata"].(map[string]any); ok && u.GetGeneration() == 0 {
		m["generation"] = int64(1)
	}
}
