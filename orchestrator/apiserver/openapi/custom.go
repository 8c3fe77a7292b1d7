package openapi

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	generated "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/schemamutation"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

const (
	metaPackage         = "io.k8s.apimachinery.pkg.apis.meta.v1."
	preserveExtension   = "x-kubernetes-preserve-unknown-fields"
	embeddedExtension   = "x-kubernetes-embedded-resource"
	selectableExtension = "x-kubernetes-selectable-fields"
	conventions         = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
)

// Custom returns the kinds of custom resources that are served now. It is called for every request, from many goroutines. A
// kind whose pointer is that of the last time has not changed.
type Custom func() []*kinds.Kind

// CustomTypes describes custom resources to server-side apply. It must know all versions of a definition: those who manage
// fields may have written another one.
func CustomTypes(versions ...*kinds.Kind) (managedfields.TypeConverter, error) {
	all := map[string]*spec.Schema{}
	for name, d := range generated.GetOpenAPIDefinitions(func(name string) spec.Ref { return spec.MustCreateRef(refPrefix + name) }) {
		if strings.HasPrefix(name, metaPackage) {
			all[name] = openapiconv.ConvertSchema(&d.Schema)
		}
	}
	for _, k := range versions {
		w := &schemaWriter{Kind: k}
		all[w.name(k.GroupVersionKind.Kind)] = openapiconv.ConvertSchema(w.object())
	}
	free := slices.ContainsFunc(versions, func(k *kinds.Kind) bool { return k.Schema == nil })
	c, err := managedfields.NewTypeConverter(all, free)
	if err != nil {
		return nil, fmt.Errorf("openapi: custom resources: %w", err)
	}
	return c, nil
}

// addCustom defines a custom resource and its list and returns their names.
func (ts *types) addCustom(k *kinds.Kind) (model, list string) {
	ts.add(reflect.TypeFor[metav1.ObjectMeta]())
	ts.add(reflect.TypeFor[metav1.ListMeta]())
	v3, v2 := &schemaWriter{Kind: k}, &schemaWriter{Kind: k, v2: true}
	s := v3.object()
	s.AddExtension(common.ExtensionV2Schema, *v2.object())
	model, list = v3.name(k.GroupVersionKind.Kind), v3.name(k.List().Kind)
	ts.result[model] = common.OpenAPIDefinition{Schema: *s}
	ts.result[list] = common.OpenAPIDefinition{Schema: *v3.list()}
	return model, list
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

// schemaWriter makes the schemas of a kind.
type schemaWriter struct {
	*kinds.Kind
	v2 bool
}

// name is that of a kind's schema.
func (w *schemaWriter) name(kind string) string {
	return util.ToRESTFriendlyName(w.GroupVersion().String() + "." + kind)
}

func (w *schemaWriter) ref(name string) *spec.Schema { return spec.RefSchema(refPrefix + name) }

// object is the schema of the objects.
func (w *schemaWriter) object() *spec.Schema {
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	// An object without properties is one that may have any, for kubectl.
	if st := w.structural(); st != nil && !(w.v2 && st.XPreserveUnknownFields) {
		if w.v2 {
			st = openapiv2.ToStructuralOpenAPIV2(st)
			without := schema.Visitor{Structural: dropDefault}
			without.Visit(st)
		}
		s = st.ToKubeOpenAPI()
		s.SetProperty("metadata", *w.objectMeta())
		w.addType(s)
		w.embed(s)
	}
	w.describe(s, w.GroupVersionKind)
	return s
}

// structural is the kind's schema, nil if it has none, or one that is not structural.
func (w *schemaWriter) structural() *schema.Structural {
	if w.Schema == nil {
		return nil
	}
	props := &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(w.Schema.DeepCopy(), props, nil); err != nil {
		return nil
	}
	if crdvalidation.SchemaHasInvalidTypes(props) {
		return nil
	}
	s, err := schema.NewStructural(props)
	if err != nil || len(schema.ValidateStructural(nil, s)) > 0 {
		return nil
	}
	return s.Unfold()
}

// dropDefault removes a default, which kubectl does not know in version 2.
func dropDefault(s *schema.Structural) bool {
	had := s.Default.Object != nil
	s.Default.Object = nil
	return had
}

// list is the schema of the lists.
func (w *schemaWriter) list() *spec.Schema {
	items := spec.ArrayProperty(w.ref(w.name(w.GroupVersionKind.Kind))).WithDescription(fmt.Sprintf("List of %s. More info: %s", w.Resource, conventions))
	metadata := w.ref(metaPackage + "ListMeta").WithDescription(metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"])
	s := new(spec.Schema).Typed("object", "").WithDescription(fmt.Sprintf("%s is a list of %s", w.List().Kind, w.GroupVersionKind.Kind)).
		WithRequired("items").SetProperty("items", *items).SetProperty("metadata", *metadata)
	w.addType(s)
	w.describe(s, w.List())
	return s
}

func (w *schemaWriter) objectMeta() *spec.Schema {
	return w.ref(metaPackage + "ObjectMeta").WithDescription(metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"])
}

// addType adds what metav1.TypeMeta has.
func (w *schemaWriter) addType(s *spec.Schema) {
	docs := metav1.TypeMeta{}.SwaggerDoc()
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription(docs["apiVersion"]))
	s.SetProperty("kind", *spec.StringProperty().WithDescription(docs["kind"]))
}

// embed completes the schemas of objects that are within others.
func (w *schemaWriter) embed(s *spec.Schema) {
	if s == nil {
		return
	}
	for name, p := range s.Properties {
		w.embed(&p)
		s.Properties[name] = p
	}
	if s.Items != nil {
		w.embed(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		w.embed(s.AdditionalProperties.Schema)
	}
	open, _ := s.Extensions.GetBool(preserveExtension)
	if embedded, _ := s.Extensions.GetBool(embeddedExtension); !embedded || open && w.v2 {
		return
	}
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription(
		"apiVersion defines the versioned schema of this representation of an object. More info: " + conventions + "#resources"))
	s.SetProperty("kind", *spec.StringProperty().WithDescription(
		"kind is a string value representing the type of this object. In CamelCase. More info: " + conventions + "#types-kinds"))
	s.SetProperty("metadata", *w.objectMeta())
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// describe says which kind a schema is of, and which of its fields can be selected.
func (w *schemaWriter) describe(s *spec.Schema, k kschema.GroupVersionKind) {
	s.AddExtension(kindExtension, []any{entry(k)})
	var fields []any
	for _, f := range w.FieldNames {
		fields = append(fields, map[string]any{"fieldPath": f})
	}
	if len(fields) > 0 {
		s.AddExtension(selectableExtension, fields)
	}
}
