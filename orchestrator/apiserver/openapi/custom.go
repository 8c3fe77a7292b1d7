package openapi

import (
	"encoding/json"
	"fmt"
	"reflect"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/schemamutation"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Resource is a custom resource in one version.
type Resource struct {
	Kind *kinds.Kind
	// Schema is that of the definition's version; nil: objects may hold anything.
	Schema *apiextensions.JSONSchemaProps
}

// Custom returns the custom resources that are served now. It is called for every request, from many goroutines. A resource
// whose two pointers are those of the last time has not changed.
type Custom func() []Resource

// CustomDefinitions returns what Definitions returns, for custom resources.
func CustomDefinitions(all []Resource) (map[string]*spec.Schema, error) {
	ts, err := newTypes()
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if _, _, err := ts.addCustom(r); err != nil {
			return nil, err
		}
	}
	return ts.version3(), nil
}

// addCustom defines a custom resource and its list and returns their names.
func (ts *types) addCustom(r Resource) (model, list string, err error) {
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	if r.Schema == nil {
		s.AddExtension(preserveExtension, true)
	} else if s, err = schemaOf(r.Schema); err != nil {
		return "", "", fmt.Errorf("openapi: schema of %s: %w", r.Kind.GroupVersionKind, err)
	}
	walker := schemamutation.Walker{SchemaCallback: ts.embed, RefCallback: schemamutation.RefCallbackNoop}
	s = walker.WalkSchema(s)
	top := *s
	ts.objectFields(&top, reflect.TypeFor[metav1.ObjectMeta]())
	top.VendorExtensible = extended(top.VendorExtensible, kindExtension, []any{entry(r.Kind.GroupVersionKind)})
	model = util.ToRESTFriendlyName(r.Kind.GroupVersion().String() + "." + r.Kind.Kind)
	ts.result[model] = common.OpenAPIDefinition{Schema: top}

	items := spec.ArrayProperty(spec.RefSchema(refPrefix + model))
	items.Description = "List of " + r.Kind.Resource + "."
	l := spec.Schema{SchemaProps: spec.SchemaProps{
		Description: r.Kind.List().Kind + " is a list of " + r.Kind.Kind, Type: []string{"object"},
		Properties: map[string]spec.Schema{"items": *items}, Required: []string{"items"},
	}}
	ts.objectFields(&l, reflect.TypeFor[metav1.ListMeta]())
	l.AddExtension(kindExtension, []any{entry(r.Kind.List())})
	list = util.ToRESTFriendlyName(r.Kind.GroupVersion().String() + "." + r.Kind.List().Kind)
	ts.result[list] = common.OpenAPIDefinition{Schema: l}
	return model, list, nil
}

const (
	preserveExtension = "x-kubernetes-preserve-unknown-fields"
	embeddedExtension = "x-kubernetes-embedded-resource"
)

// schemaOf makes the schema of a document of one of a definition. Their JSON is the same.
func schemaOf(props *apiextensions.JSONSchemaProps) (*spec.Schema, error) {
	text, err := json.Marshal(props)
	if err != nil {
		return nil, err
	}
	s := &spec.Schema{}
	return s, json.Unmarshal(text, s)
}

// embed adds the fields of all objects to a schema of whole objects inside others.
func (ts *types) embed(s *spec.Schema) *spec.Schema {
	if on, _ := s.Extensions.GetBool(embeddedExtension); !on {
		return s
	}
	object := *s
	ts.objectFields(&object, reflect.TypeFor[metav1.ObjectMeta]())
	return &object
}

// objectFields adds apiVersion, kind and metadata.
func (ts *types) objectFields(s *spec.Schema, meta reflect.Type) {
	all := make(map[string]spec.Schema, len(s.Properties)+3)
	for name, p := range s.Properties {
		all[name] = p
	}
	texts := doc(reflect.TypeFor[metav1.TypeMeta]())
	for _, name := range []string{"apiVersion", "kind"} {
		p := spec.StringProperty()
		p.Description = texts[name]
		all[name] = *p
	}
	p := spec.RefSchema(refPrefix + ts.add(meta))
	p.Description = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
	all["metadata"] = *p
	s.Properties = all
}

// version2 returns all definitions for OpenAPI 2.
func (ts *types) version2() spec.Definitions {
	all := make(spec.Definitions, len(ts.result))
	walker := schemamutation.Walker{SchemaCallback: simplified, RefCallback: schemamutation.RefCallbackNoop}
	for name, d := range ts.result {
		s := d.Schema
		if old, ok := s.Extensions[common.ExtensionV2Schema].(spec.Schema); ok {
			s = old
		}
		all[name] = *walker.WalkSchema(&s)
	}
	return handler.PruneDefaults(all)
}

// simplified leaves out what version 2 cannot say, so that old clients accept what the server accepts.
func simplified(s *spec.Schema) *spec.Schema {
	anything, _ := s.Extensions.GetBool(preserveExtension)
	if !s.Nullable && !anything && s.OneOf == nil && s.AnyOf == nil && s.AllOf == nil && s.Not == nil {
		return s
	}
	simple := *s
	simple.OneOf, simple.AnyOf, simple.AllOf, simple.Not = nil, nil, nil, nil
	if s.Nullable || anything {
		simple.Type, simple.Items, simple.Properties, simple.AdditionalProperties, simple.Required = nil, nil, nil, nil, nil
		simple.Nullable = false
	}
	return &simple
}
