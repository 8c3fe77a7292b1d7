package openapi

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	generated "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	aggregator "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	merge "sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

const kindExtension = "x-kubernetes-group-version-kind"

// Definitions returns the schemas of kinds and of all types that they use, by name, in OpenAPI's version 3: what
// managedfields.NewTypeConverter needs for server-side apply. Kinds without Go types are left out. It takes some 100 ms.
func Definitions(all []*kinds.Kind) (map[string]*spec.Schema, error) {
	ts, err := newTypes()
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		o := k.New()
		if _, ok := o.(runtime.Unstructured); ok {
			continue
		}
		ts.addKind(k.GroupVersionKind, reflect.TypeOf(o))
		for _, s := range k.Subresources {
			if err := ts.addNamed(s.Kind); err != nil {
				return nil, err
			}
		}
		if k.Scale != nil {
			if err := ts.addNamed(scaleKind); err != nil {
				return nil, err
			}
		}
	}
	return ts.version3(), nil
}

var scaleKind = schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}

func newTypes() (*types, error) {
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	value, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(pod)
	if err != nil {
		return nil, fmt.Errorf("openapi: schema of the apply configurations: %w", err)
	}
	ref := func(name string) spec.Ref { return spec.MustCreateRef(refPrefix + name) }
	known := aggregator.GetOpenAPIDefinitions(ref)
	maps.Copy(known, generated.GetOpenAPIDefinitions(ref))
	return &types{
		known:      known,
		exceptions: exceptions(),
		enums:      enums(),
		merge:      (*merge.Schema)(value.Schema()),
		result:     map[string]common.OpenAPIDefinition{},
	}, nil
}

// addKind defines a type that is a kind's.
func (ts *types) addKind(kind schema.GroupVersionKind, t reflect.Type) string {
	name := ts.add(t)
	d := ts.result[name]
	list, _ := d.Schema.Extensions[kindExtension].([]any)
	own := entry(kind)
	if !slices.ContainsFunc(list, func(e any) bool { return reflect.DeepEqual(e, own) }) {
		d.Schema.VendorExtensible = extended(d.Schema.VendorExtensible, kindExtension, append(slices.Clip(list), own))
		ts.result[name] = d
	}
	return name
}

// extended returns extensions with one more; those that are given may be shared and are not changed.
func extended(e spec.VendorExtensible, key string, value any) spec.VendorExtensible {
	all := spec.VendorExtensible{}
	for k, v := range e.Extensions {
		all.AddExtension(k, v)
	}
	all.AddExtension(key, value)
	return all
}

// addNamed defines a kind of the Kubernetes API that is not served by itself.
func (ts *types) addNamed(kind schema.GroupVersionKind) error {
	o, err := scheme.Scheme.New(kind)
	if err != nil {
		return fmt.Errorf("openapi: %w", err)
	}
	ts.addKind(kind, reflect.TypeOf(o))
	return nil
}

// version3 returns all definitions for OpenAPI 3.
func (ts *types) version3() map[string]*spec.Schema {
	all := make(map[string]*spec.Schema, len(ts.result))
	for name, d := range ts.result {
		s := d.Schema
		if _, ok := s.Extensions[common.ExtensionV2Schema]; ok {
			extensions := spec.VendorExtensible{}
			for k, v := range s.Extensions {
				if k != common.ExtensionV2Schema {
					extensions.AddExtension(k, v)
				}
			}
			s.VendorExtensible = extensions
		}
		all[name] = openapiconv.ConvertSchema(&s)
	}
	return all
}
