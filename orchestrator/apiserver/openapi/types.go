package openapi

import (
	_ "embed" // required.txt, enums.txt
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// refPrefix is what references in definitions begin with, before they are converted to version 3.
const refPrefix = "#/definitions/"

// types makes definitions of Go types.
//
// A definition comes from what openapi-gen made of a type, where a library has that (known: package metav1 and custom
// resource definitions), otherwise from the type itself: its struct tags, its generated docs and its entry in the schema of
// the apply configurations, which has the markers that comments have (list types, map types, defaults).
type types struct {
	// exceptions say whether a property ("<type>.<property>") is required, where the tags are wrong.
	exceptions map[string]bool
	enums      map[string][]any // the values that a property may have
	known      map[string]common.OpenAPIDefinition
	merge      *schema.Schema
	result     map[string]common.OpenAPIDefinition
}

// What types can tell of themselves.
type (
	named interface{ OpenAPIModelName() string }
	docs  interface{ SwaggerDoc() map[string]string }
	plain interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}
	manifold interface{ OpenAPIV3OneOfTypes() []string }
)

// add defines a type and all those that it refers to, and returns its name.
func (ts *types) add(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := modelName(t)
	if _, ok := ts.result[name]; ok {
		return name
	}
	if _, ok := ts.known[name]; ok {
		ts.addKnown(name)
		return name
	}
	ts.result[name] = common.OpenAPIDefinition{} // types refer to each other in circles
	ts.result[name] = ts.define(t)
	return name
}

func (ts *types) addKnown(name string) {
	if _, ok := ts.result[name]; ok {
		return
	}
	d := ts.known[name]
	ts.result[name] = d
	for _, other := range d.Dependencies {
		ts.addKnown(other)
	}
}

func modelName(t reflect.Type) string {
	if n, ok := reflect.Zero(t).Interface().(named); ok {
		return n.OpenAPIModelName()
	}
	return util.ToRESTFriendlyName(t.PkgPath() + "." + t.Name())
}

func doc(t reflect.Type) map[string]string {
	if d, ok := reflect.Zero(t).Interface().(docs); ok {
		return d.SwaggerDoc()
	}
	return nil
}

// define makes a definition of a named type.
func (ts *types) define(t reflect.Type) common.OpenAPIDefinition {
	if d, ok := special(t); ok {
		return d
	}
	s := spec.Schema{SchemaProps: spec.SchemaProps{Description: doc(t)[""], Type: []string{"object"}}}
	name := modelName(t)
	shape := ts.shape(name)
	if shape != nil && shape.ElementRelationship == schema.Atomic {
		s.AddExtension("x-kubernetes-map-type", "atomic")
	}
	ts.fields(t, name, shape, &s)
	return common.OpenAPIDefinition{Schema: s}
}

// special is a type that says itself how it looks in JSON.
func special(t reflect.Type) (common.OpenAPIDefinition, bool) {
	zero := reflect.Zero(t).Interface()
	p, ok := zero.(plain)
	if !ok {
		return common.OpenAPIDefinition{}, false
	}
	s := spec.Schema{SchemaProps: spec.SchemaProps{Description: doc(t)[""], Type: p.OpenAPISchemaType(), Format: p.OpenAPISchemaFormat()}}
	m, ok := zero.(manifold)
	if !ok {
		return common.OpenAPIDefinition{Schema: s}, true
	}
	v3 := s
	v3.Type, v3.OneOf = nil, common.GenerateOpenAPIV3OneOfSchema(m.OpenAPIV3OneOfTypes())
	return common.EmbedOpenAPIDefinitionIntoV2Extension(common.OpenAPIDefinition{Schema: v3}, common.OpenAPIDefinition{Schema: s}), true
}

// shape is what the schema of the apply configurations says of a type, or nil.
func (ts *types) shape(name string) *schema.Map {
	if def, ok := ts.merge.FindNamedType(name); ok {
		return def.Map
	}
	return nil
}

// fields puts the fields of a struct into a schema, those of embedded structs too.
func (ts *types) fields(t reflect.Type, model string, shape *schema.Map, s *spec.Schema) {
	texts := doc(t)
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
			continue
		case name == "" && f.Anonymous:
			ts.fields(f.Type, model, shape, s)
			continue
		case name == "":
			name = f.Name
		}
		p := ts.property(f, options)
		p.Description = texts[name]
		enumerated(&p, ts.enums[model+"."+name])
		if field, ok := found(shape, name); ok {
			merged(&p, field)
		} else if p.Type.Contains("array") && name != "items" {
			p.AddExtension("x-kubernetes-list-type", "atomic")
		}
		for extension, tag := range map[string]string{"x-kubernetes-patch-merge-key": "patchMergeKey", "x-kubernetes-patch-strategy": "patchStrategy"} {
			if v := f.Tag.Get(tag); v != "" {
				p.AddExtension(extension, v)
			}
		}
		s.SetProperty(name, p)
		required, ok := ts.exceptions[model+"."+name]
		if !ok {
			required = !optional(options)
		}
		if required {
			s.Required = append(s.Required, name)
		}
	}
}

func found(shape *schema.Map, name string) (schema.StructField, bool) {
	if shape == nil {
		return schema.StructField{}, false
	}
	return shape.FindField(name)
}

//go:embed required.txt
var requiredText string

// exceptions reads required.txt.
func exceptions() map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(requiredText) {
		if property, sign, ok := strings.Cut(strings.TrimSpace(line), " "); ok && property != "#" {
			all[property] = sign == "+"
		}
	}
	return all
}

//go:embed enums.txt
var enumsText string

// enums reads enums.txt.
func enums() map[string][]any {
	all := map[string][]any{}
	for line := range strings.Lines(enumsText) {
		if property, values, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok && property != "#" {
			for v := range strings.SplitSeq(values, "|") {
				all[property] = append(all[property], v)
			}
		}
	}
	return all
}

// enumerated says which values a property may have, or its elements.
func enumerated(p *spec.Schema, values []any) {
	switch {
	case values == nil:
	case p.Items != nil:
		p.Items.Schema.Enum = values
	case p.AdditionalProperties != nil:
		p.AdditionalProperties.Schema.Enum = values
	default:
		p.Enum = values
	}
}

func optional(options string) bool {
	return strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
}

// property is the schema of a field. What is always sent has its zero value as default.
func (ts *types) property(f reflect.StructField, options string) spec.Schema {
	p := ts.value(f.Type)
	switch k := f.Type.Kind(); {
	case k == reflect.Struct && p.Ref.String() != "":
		if _, ok := reflect.Zero(f.Type).Interface().(plain); !ok && f.Type != reflect.TypeFor[runtime.RawExtension]() {
			p.Default = map[string]any{}
		}
	case optional(options):
	case k == reflect.String:
		p.Default = ""
	case k == reflect.Bool:
		p.Default = false
	case k >= reflect.Int && k <= reflect.Float64:
		p.Default = 0
	}
	return p
}

// value is the schema of values of a type: structs are references.
func (ts *types) value(t reflect.Type) spec.Schema {
	simple := func(kind, format string) spec.Schema {
		return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{kind}, Format: format}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return ts.value(t.Elem())
	case reflect.Struct:
		return *spec.RefSchema(refPrefix + ts.add(t))
	case reflect.String:
		return simple("string", "")
	case reflect.Bool:
		return simple("boolean", "")
	case reflect.Int64:
		return simple("integer", "int64")
	case reflect.Int, reflect.Int32, reflect.Int16, reflect.Int8:
		return simple("integer", "int32")
	case reflect.Uint64, reflect.Uint32, reflect.Uint16, reflect.Uint, reflect.Uint8:
		return simple("integer", "int64")
	case reflect.Float32, reflect.Float64:
		return simple("number", "double")
	case reflect.Interface:
		return simple("object", "")
	case reflect.Map:
		element := ts.value(t.Elem())
		return *spec.MapProperty(&element)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return simple("string", "byte")
		}
		element := ts.value(t.Elem())
		return *spec.ArrayProperty(&element)
	}
	panic(fmt.Sprintf("openapi: type %s has no schema", t))
}

// merged adds what the schema of the apply configurations says of a field.
func merged(p *spec.Schema, f schema.StructField) {
	if f.Default != nil {
		p.Default = jsonValue(f.Default)
	}
	if r := f.Type.ElementRelationship; r != nil { // not that of the type referred to
		p.AddExtension("x-kubernetes-map-type", map[schema.ElementRelationship]string{schema.Atomic: "atomic", schema.Separable: "granular"}[*r])
	}
	if m := f.Type.Inlined.Map; m != nil && m.ElementRelationship == schema.Atomic {
		p.AddExtension("x-kubernetes-map-type", "atomic")
	}
	list := f.Type.Inlined.List
	switch {
	case list == nil:
	case list.ElementRelationship != schema.Associative:
		p.AddExtension("x-kubernetes-list-type", "atomic")
	case len(list.Keys) == 0:
		p.AddExtension("x-kubernetes-list-type", "set")
	default:
		keys := make([]any, len(list.Keys))
		for i, k := range list.Keys {
			keys[i] = k
		}
		p.AddExtension("x-kubernetes-list-map-keys", keys)
		p.AddExtension("x-kubernetes-list-type", "map")
	}
}

// jsonValue makes of a value of YAML one of JSON.
func jsonValue(v any) any {
	m, ok := v.(map[any]any)
	if !ok {
		return v
	}
	object := make(map[string]any, len(m))
	for k, e := range m {
		object[fmt.Sprint(k)] = jsonValue(e)
	}
	return object
}
