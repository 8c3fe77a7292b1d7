package openapi

import (
	"net/http"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// operation is how a verb looks in a document.
type operation struct {
	verb, method string
	name         string // operation ids begin with it
	action       string // x-kubernetes-action
	text         string // the description's beginning
	collection   bool   // whether it is below the path of all objects
	codes        []int
}

var operations = []operation{
	{"list", http.MethodGet, "list", "list", "list or watch", true, []int{200}},
	{"create", http.MethodPost, "create", "post", "create", true, []int{200, 201, 202}},
	{"deletecollection", http.MethodDelete, "delete", "deletecollection", "delete all selected", true, []int{200}},
	{"get", http.MethodGet, "read", "get", "read", false, []int{200}},
	{"update", http.MethodPut, "replace", "put", "replace", false, []int{200, 201}},
	{"patch", http.MethodPatch, "patch", "patch", "change parts of", false, []int{200, 201}},
	{"delete", http.MethodDelete, "delete", "delete", "delete", false, []int{200, 202}},
}

var (
	mediaTypes   = []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf, runtime.ContentTypeCBOR}
	streamTypes  = []string{"application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch", runtime.ContentTypeCBORSequence}
	patchTypes   = []string{string(apitypes.JSONPatchType), string(apitypes.MergePatchType), string(apitypes.StrategicMergePatchType), string(apitypes.ApplyYAMLPatchType), string(apitypes.ApplyCBORPatchType)}
	anyType      = []string{"*/*"}
	prettyOption = query("pretty", "string", "If 'true', the answer is indented, which is the default for browsers, curl and wget.")
)

// root is the path of a group and version.
func root(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.String()
}

// resource adds the paths of a resource or of a subresource.
func (b *builder) resource(r *resource) {
	all := root(r.version)
	if r.namespaced {
		all += "/namespaces/{namespace}"
	}
	all += "/" + r.plural
	one := all + "/{name}"
	if r.part != "" {
		one += "/" + r.part
	}
	for _, o := range operations {
		switch {
		case !slices.Contains(r.verbs, o.verb):
			continue
		case r.options != nil:
			b.connect(one, r, o)
			if r.part == "proxy" {
				b.connect(one+"/{path}", r, o)
			}
			continue
		}
		at := one
		if o.collection && r.part == "" {
			at = all
		}
		b.put(at, o.method, b.operation(r, o, ""))
		if o.verb == "list" && r.namespaced {
			every := *r
			every.namespaced = false
			b.put(root(r.version)+"/"+r.plural, o.method, b.operation(&every, o, "ForAllNamespaces"))
		}
	}
}

// version adds what every version has: the path at which its resources are listed, and the events of watches.
func (b *builder) version(gv schema.GroupVersion) {
	b.types.addKind(gv.WithKind("WatchEvent"), reflect.TypeFor[metav1.WatchEvent]())
	list := b.types.add(reflect.TypeFor[metav1.APIResourceList]())
	op := newOperation(gv)
	op.ID, op.Description, op.Produces = "get"+groupName(gv)+"APIResources", "get the resources that there are", mediaTypes
	op.Responses.StatusCodeResponses[http.StatusOK] = answer(http.StatusOK, list)
	b.put(root(gv)+"/", http.MethodGet, op)
}

// put adds an operation to a path. What is in the path itself is a parameter of every operation.
func (b *builder) put(path, method string, o *spec.Operation) {
	item, ok := b.paths[path]
	if !ok {
		for _, name := range []string{"name", "namespace", "path"} {
			if strings.Contains(path, "{"+name+"}") {
				p := query(name, "string", map[string]string{
					"name": "name of the object", "namespace": "namespace of the objects", "path": "path behind the proxy",
				}[name])
				p.In, p.Required = "path", true
				item.Parameters = append(item.Parameters, p)
			}
		}
	}
	switch method {
	case http.MethodGet:
		item.Get = o
	case http.MethodPost:
		item.Post = o
	case http.MethodPut:
		item.Put = o
	case http.MethodPatch:
		item.Patch = o
	case http.MethodDelete:
		item.Delete = o
	}
	b.paths[path] = item
}

func (b *builder) operation(r *resource, o operation, suffix string) *spec.Operation {
	op := newOperation(r.version)
	on(op, o.action, r)
	middle := ""
	if o.verb == "deletecollection" {
		middle = "Collection"
	}
	op.ID = o.name + groupName(r.version) + middle + r.name() + suffix
	op.Description = o.text + " " + r.subject()
	op.Parameters = append(b.optionsOf(o.verb), prettyOption)
	media, streams, patches := r.media()
	op.Consumes, op.Produces = anyType, media
	model := r.model
	switch o.verb {
	case "list":
		model = r.list
		op.Produces = slices.Concat(media, streams)
	case "create", "update":
		op.Parameters = append(op.Parameters, body(r.model, true))
	case "patch":
		op.Consumes = patches
		op.Parameters = append(op.Parameters, body(b.patch(), true))
	case "delete", "deletecollection":
		op.Parameters = append(op.Parameters, body(b.deleteOptions(r.version), false))
		model = b.status()
	}
	for _, code := range o.codes {
		op.Responses.StatusCodeResponses[code] = answer(code, model)
	}
	return op
}

// connect adds an operation whose answer is a stream.
func (b *builder) connect(path string, r *resource, o operation) {
	op := newOperation(r.version)
	on(op, "connect", r)
	op.ID = "connect" + groupName(r.version) + o.method[:1] + strings.ToLower(o.method[1:]) + r.name()
	op.Description = "connect to " + r.subject()
	op.Consumes, op.Produces, op.Parameters = anyType, anyType, slices.Clip(r.options)
	if r.part == "log" {
		op.ID, op.Description, op.Produces = o.name+groupName(r.version)+r.name(), "read "+r.subject(), slices.Concat([]string{"text/plain"}, mediaTypes)
		on(op, o.action, r)
		op.Parameters = append(op.Parameters, prettyOption)
	}
	if strings.HasSuffix(path, "{path}") {
		op.ID += "WithPath"
	}
	ok := answer(http.StatusOK, "")
	ok.Schema = spec.StringProperty()
	op.Responses.StatusCodeResponses[http.StatusOK] = ok
	b.put(path, o.method, op)
}

// media are the types of answers, of watches and of patches.
func (r *resource) media() (single, streams, patches []string) {
	if !r.custom {
		return mediaTypes, streamTypes, patchTypes
	}
	without := func(all []string, word string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(t string) bool { return strings.Contains(t, word) })
	}
	return without(mediaTypes, "protobuf"), without(streamTypes, "protobuf"), without(patchTypes, "strategic")
}

func newOperation(gv schema.GroupVersion) *spec.Operation {
	op := &spec.Operation{OperationProps: spec.OperationProps{Schemes: []string{"https"}, Tags: []string{tag(gv)}}}
	op.Responses = &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: map[int]spec.Response{
		http.StatusUnauthorized: answer(http.StatusUnauthorized, ""),
	}}}
	return op
}

// on says what an operation does, and with which kind.
func on(op *spec.Operation, action string, r *resource) {
	op.AddExtension("x-kubernetes-action", action)
	op.AddExtension(kindExtension, entry(r.exchanged))
}

func body(model string, required bool) spec.Parameter {
	return spec.Parameter{ParamProps: spec.ParamProps{Name: "body", In: "body", Required: required, Schema: spec.RefSchema(refPrefix + model)}}
}

func answer(code int, model string) spec.Response {
	a := spec.Response{ResponseProps: spec.ResponseProps{Description: http.StatusText(code)}}
	if model != "" {
		a.Schema = spec.RefSchema(refPrefix + model)
	}
	return a
}

// groupName is a group and version in operation ids: RbacAuthorizationV1.
func groupName(gv schema.GroupVersion) string {
	t := tag(gv)
	group, version, _ := strings.Cut(t, "_")
	return title(group) + title(version)
}

// tag is a group and version as a tag: rbacAuthorization_v1.
func tag(gv schema.GroupVersion) string {
	group := strings.TrimSuffix(gv.Group, ".k8s.io")
	if group == "" {
		group = "core"
	}
	words := strings.Split(group, ".")
	for i := 1; i < len(words); i++ {
		words[i] = title(words[i])
	}
	return strings.Join(words, "") + "_" + gv.Version
}

func title(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// name is what of a resource is in operation ids.
func (r *resource) name() string {
	name := r.kind + title(r.part)
	if r.namespaced {
		return "Namespaced" + name
	}
	return name
}

func (r *resource) subject() string {
	if r.part != "" {
		return r.part + " of " + r.kind
	}
	return "objects of kind " + r.kind
}

// The definitions that all paths share.

func (b *builder) patch() string {
	name := "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
	b.types.addKnown(name)
	return name
}

func (b *builder) deleteOptions(gv schema.GroupVersion) string {
	return b.types.addKind(gv.WithKind("DeleteOptions"), reflect.TypeFor[metav1.DeleteOptions]())
}

func (b *builder) status() string {
	return b.types.addKind(schema.GroupVersionKind{Version: "v1", Kind: "Status"}, reflect.TypeFor[metav1.Status]())
}
