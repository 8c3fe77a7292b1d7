package openapi

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// resource is what paths are made for: a resource or a subresource.
type resource struct {
	version    schema.GroupVersion
	kind       string // of the resource
	plural     string
	namespaced bool
	part       string // the subresource, "" for the resource itself
	verbs      []string
	exchanged  schema.GroupVersionKind // what requests and answers hold
	model      string                  // its definition
	list       string                  // the definition of lists
	custom     bool                    // there is no Go type: no protobuf, no strategic merge
	// options are the query parameters of a connection, whose answer is a stream.
	options []spec.Parameter
}

// builder collects the definitions and the paths of a document.
type builder struct {
	types   *types
	options *types // definitions that only parameters are made of
	paths   map[string]spec.PathItem
}

func newBuilder() (*builder, error) {
	ts, err := newTypes()
	if err != nil {
		return nil, err
	}
	options := *ts
	options.result = map[string]common.OpenAPIDefinition{}
	return &builder{types: ts, options: &options, paths: map[string]spec.PathItem{}}, nil
}

// kind adds a kind with its subresources. Its definitions, model and list, are there already.
func (b *builder) kind(k *kinds.Kind, model, list string, custom bool) error {
	verbs := k.Verbs
	if verbs == nil {
		verbs = kinds.AllVerbs
	}
	whole := resource{
		version: k.GroupVersion(), kind: k.Kind, plural: k.Resource, namespaced: k.Namespaced, verbs: verbs,
		exchanged: k.GroupVersionKind, model: model, list: list, custom: custom,
	}
	b.resource(&whole)
	part := func(name string, kind schema.GroupVersionKind, verbs []string) error {
		p := whole
		p.part, p.exchanged, p.verbs = name, kind, verbs
		if kind == k.GroupVersionKind {
			b.logs(&p)
			b.resource(&p)
			return nil
		}
		o, err := scheme.Scheme.New(kind)
		if err != nil {
			return err
		}
		if t := reflect.TypeOf(o); strings.HasSuffix(kind.Kind, "Options") {
			p.options = b.parameters(t)
		} else {
			p.model = b.types.addKind(kind, t)
		}
		b.resource(&p)
		return nil
	}
	change := []string{"get", "patch", "update"}
	if k.Status != nil {
		if err := part("status", k.GroupVersionKind, change); err != nil {
			return err
		}
	}
	if k.Scale != nil {
		if err := part("scale", scaleKind, change); err != nil {
			return err
		}
	}
	for _, s := range k.Subresources {
		if err := part(s.Name, s.Kind, s.Verbs); err != nil {
			return err
		}
	}
	return nil
}

// logs makes a stream of the one subresource that is read as one but has the kind of its resource.
func (b *builder) logs(p *resource) {
	if p.part == "log" && p.exchanged == corev1.SchemeGroupVersion.WithKind("Pod") {
		p.options = b.parameters(reflect.TypeFor[corev1.PodLogOptions]())
	}
}

// virtual adds a resource that is not stored.
func (b *builder) virtual(v discovery.Virtual) error {
	if v.New != nil {
		b.resource(&resource{
			version: v.GroupVersion(), kind: v.Kind, plural: v.Resource, namespaced: v.Namespaced, verbs: v.Verbs, exchanged: v.GroupVersionKind,
			model: b.types.addKind(v.GroupVersionKind, reflect.TypeOf(v.New())),
			list:  b.types.addKind(v.GroupVersion().WithKind(v.Kind+"List"), reflect.TypeOf(v.NewList())),
		})
		return nil
	}
	o, err := scheme.Scheme.New(v.GroupVersionKind)
	if err != nil {
		return err
	}
	b.resource(&resource{
		version: v.GroupVersion(), kind: v.Kind, plural: v.Resource, namespaced: v.Namespaced, verbs: v.Verbs,
		exchanged: v.GroupVersionKind, model: b.types.addKind(v.GroupVersionKind, reflect.TypeOf(o)),
	})
	return nil
}

// parameters are the query parameters that stand for a struct of options. Those that are no single values are left out.
func (b *builder) parameters(t reflect.Type, without ...string) []spec.Parameter {
	name := b.options.add(t)
	properties := b.options.result[name].Schema.Properties
	var all []spec.Parameter
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		p := properties[name]
		if name == "kind" || name == "apiVersion" || slices.Contains(without, name) || len(p.Type) == 0 || p.Type.Contains("object") {
			continue
		}
		kind := p.Type[0]
		if kind == "array" {
			kind = "string"
		}
		all = append(all, query(name, kind, p.Description))
	}
	return all
}

func query(name, kind, text string) spec.Parameter {
	return spec.Parameter{
		ParamProps:   spec.ParamProps{Name: name, In: "query", Description: text},
		SimpleSchema: spec.SimpleSchema{Type: kind}, CommonValidations: spec.CommonValidations{UniqueItems: true},
	}
}

// optionsOf are the query parameters of a verb.
func (b *builder) optionsOf(verb string) []spec.Parameter {
	switch verb {
	case "list":
		return b.parameters(reflect.TypeFor[metav1.ListOptions]())
	case "create":
		return b.parameters(reflect.TypeFor[metav1.CreateOptions]())
	case "update":
		return b.parameters(reflect.TypeFor[metav1.UpdateOptions]())
	case "patch":
		return b.parameters(reflect.TypeFor[metav1.PatchOptions]())
	case "delete":
		return b.parameters(reflect.TypeFor[metav1.DeleteOptions]())
	case "deletecollection":
		all := append(b.parameters(reflect.TypeFor[metav1.DeleteOptions]()), b.parameters(reflect.TypeFor[metav1.ListOptions](), "watch", "allowWatchBookmarks")...)
		slices.SortFunc(all, func(x, y spec.Parameter) int { return strings.Compare(x.Name, y.Name) })
		return all
	}
	return nil
}
