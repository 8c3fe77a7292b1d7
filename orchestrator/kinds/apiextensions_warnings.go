package kinds

import (
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// definitionWarnings are about what schemas have that is not understood, and that they did not have before.
func definitionWarnings(o, old *apiextensionsv1.CustomResourceDefinition) []string {
	formats, lists := schemaWarnings(o)
	oldFormats, oldLists := schemaWarnings(old)
	var out []string
	for _, w := range formats {
		if !slices.Contains(oldFormats, w) {
			out = append(out, w)
		}
	}
	for _, w := range lists {
		if !slices.Contains(oldLists, w) {
			out = append(out, w)
		}
	}
	return out
}

// schemaWarnings returns those about formats, in their order, and those about lists, sorted and each only once.
func schemaWarnings(o *apiextensionsv1.CustomResourceDefinition) (formats, lists []string) {
	if o == nil {
		return nil, nil
	}
	look := func(s *apiextensions.JSONSchemaProps) bool {
		if s.Format != "" {
			known := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
			for _, f := range schemavalidation.GetUnrecognizedFormats(known, environment.DefaultCompatibilityVersion()) {
				formats = append(formats, fmt.Sprintf("unrecognized format %q", f))
			}
		}
		if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil {
			if t := s.Items.Schema.Type; t == "object" || t == "array" {
				lists = append(lists, fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", t))
			}
		}
		return false
	}
	for _, v := range o.Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		in := &apiextensions.JSONSchemaProps{}
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, in, nil); err == nil {
			crdvalidation.SchemaHas(in, look)
		}
	}
	slices.Sort(lists)
	return formats, slices.Compact(lists)
}
