package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	openapi2 "github.com/google/gnostic-models/openapiv2"
	openapi3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// content is what a document describes.
type content struct {
	kinds   []*kinds.Kind
	virtual []discovery.Virtual
	custom  []*kinds.Kind
}

func (c *content) build() (*builder, error) {
	b, err := newBuilder()
	if err != nil {
		return nil, err
	}
	for _, k := range c.kinds {
		model := b.types.addKind(k.GroupVersionKind, reflect.TypeOf(k.New()))
		list := b.types.addKind(k.List(), reflect.TypeOf(k.NewList()))
		if err := b.kind(k, model, list, false); err != nil {
			return nil, fmt.Errorf("openapi: %s: %w", k.GroupVersionKind, err)
		}
	}
	for _, v := range c.virtual {
		if err := b.virtual(v); err != nil {
			return nil, fmt.Errorf("openapi: %s: %w", v.GroupVersionKind, err)
		}
	}
	for _, k := range c.custom {
		model, list := b.types.addCustom(k)
		if err := b.kind(k, model, list, true); err != nil {
			return nil, fmt.Errorf("openapi: %s: %w", k.GroupVersionKind, err)
		}
	}
	for _, gv := range c.versions() {
		b.version(gv)
	}
	return b, nil
}

// versions are those that the document describes.
func (c *content) versions() []schema.GroupVersion {
	all := sets.New[schema.GroupVersion]()
	for _, k := range c.kinds {
		all.Insert(k.GroupVersion())
	}
	for _, v := range c.virtual {
		all.Insert(v.GroupVersion())
	}
	for _, k := range c.custom {
		all.Insert(k.GroupVersion())
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b schema.GroupVersion) int { return strings.Compare(a.String(), b.String()) })
}

var (
	information = &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "unversioned"}}
	security    = map[string]*spec.SecurityScheme{"BearerToken": {SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
	}}}
)

// version3 is a document of OpenAPI 3 in JSON.
func (c *content) version3() ([]byte, error) {
	b, err := c.build()
	if err != nil {
		return nil, err
	}
	components := openapiconv.ConvertComponents(security, nil, nil, nil)
	components.Schemas = b.types.version3()
	return json.Marshal(&spec3.OpenAPI{
		Version: "3.0.0", Info: information, Components: components,
		Paths: openapiconv.ConvertPaths(&spec.Paths{Paths: b.paths}),
	})
}

// version2 is a document of OpenAPI 2 in JSON.
func (c *content) version2() ([]byte, error) {
	b, err := c.build()
	if err != nil {
		return nil, err
	}
	return json.Marshal(&spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger: "2.0", Info: information, Definitions: b.types.version2(), Paths: &spec.Paths{Paths: b.paths},
		SecurityDefinitions: security, Security: []map[string][]string{{"BearerToken": {}}},
	}})
}

// protobuf3 and protobuf2 make protobuf of JSON.
func protobuf3(text []byte) ([]byte, error) {
	document, err := openapi3.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(document)
}

func protobuf2(text []byte) ([]byte, error) {
	document, err := openapi2.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(document)
}

func entry(kind schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": kind.Group, "version": kind.Version, "kind": kind.Kind}
}
