package crd

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Where documents of OpenAPI's versions keep schemas.
const (
	definitions = "#/definitions/"
	components  = "#/components/schemas/"
)

const (
	metaPackage         = "io.k8s.apimachinery.pkg.apis.meta.v1."
	kindExtension       = "x-kubernetes-group-version-kind"
	selectableExtension = "x-kubernetes-selectable-fields"
	conventions         = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
)

// Schemas returns the schemas of the objects and the lists of a kind without a Go type, by the names that documents know them
// under: "com.example.v1.Widget". They refer to schemas of package metav1, which are not among them. Those for OpenAPI's
// version 2 lack what it, or kubectl, does not understand.
func Schemas(k *kinds.Kind, v2 bool) map[string]*spec.Schema {
	w := &schemaWriter{Kind: k, v2: v2}
	return map[string]*spec.Schema{w.name(k.GroupVersionKind.Kind): w.object(), w.name(k.List().Kind): w.list()}
}

// schemaWriter makes the schemas of a kind.
type schemaWriter struct {
	*kinds.Kind
	v2 bool
}

// name is that of a kind's schema.
func (w *schemaWriter) name(kind string) string {
	group := strings.Split(w.Group, ".")
	slices.Reverse(group)
	return strings.Join(group, ".") + "." + w.Version + "." + kind
}

func (w *schemaWriter) ref(name string) *spec.Schema {
	if w.v2 {
		return spec.RefSchema(definitions + name)
	}
	return spec.RefSchema(components + name)
}

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
	open, _ := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields")
	if embedded, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !embedded || open && w.v2 {
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
	s.AddExtension(kindExtension, []any{map[string]any{"group": k.Group, "version": k.Version, "kind": k.Kind}})
	var fields []any
	for _, f := range w.FieldNames {
		fields = append(fields, map[string]any{"fieldPath": f})
	}
	if len(fields) > 0 {
		s.AddExtension(selectableExtension, fields)
	}
}
