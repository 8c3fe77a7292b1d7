package apiserver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.uber.org/zap"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/keelson-io/keelson/orchestrator/apiserver/crd"
	"github.com/keelson-io/keelson/orchestrator/apiserver/openapi"
	"github.com/keelson-io/keelson/orchestrator/apiserver/patch"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

var definitionResource = schema.GroupResource{Group: apiextensionsv1.GroupName, Resource: "customresourcedefinitions"}

// custom is the custom resources that are served.
type custom struct {
	api     *API
	webhook *crd.Webhook
	manager *crd.Manager

	mu        sync.Mutex
	resources map[*kinds.Kind]servedResource
	schemas   []openapi.Resource // of resources, in order
}

// servedResource is a custom resource in one version.
type servedResource struct {
	*verbs.Resource
	schema openapi.Resource
}

// newCustom follows the definitions, if there are any.
func newCustom(a *API) (*custom, error) {
	c := &custom{api: a, webhook: crd.NewWebhook(services{a.objects}), resources: map[*kinds.Kind]servedResource{}}
	definitions, err := a.objects.collection(definitionResource, "")
	if err != nil {
		return nil, fmt.Errorf("apiserver: custom resources: %w", err)
	}
	c.manager = crd.NewManager(crd.Config{
		Objects: a.cfg.Store, Definitions: definitions, Builtin: a.cfg.Kinds, Converter: c.webhook, Serve: c.serve, Clock: a.cfg.Clock, Logger: a.cfg.Logger,
	})
	return c, nil
}

// serve makes these the custom resources that are served, beside the built-in ones.
func (c *custom) serve(byDefinition map[string][]*kinds.Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	served := map[*kinds.Kind]servedResource{}
	var schemas []openapi.Resource
	all := slices.Clone(c.api.builtin)
	for _, name := range slices.Sorted(maps.Keys(byDefinition)) {
		for _, k := range byDefinition[name] {
			r, known := c.resources[k]
			if !known {
				r.schema = c.describe(name, k)
				r.Resource = c.api.resource(k, customTypes(r.schema))
			}
			served[k] = r
			all = append(all, r.Resource)
			schemas = append(schemas, r.schema)
		}
	}
	c.resources, c.schemas = served, schemas
	c.api.server.table.Store(newTable(all))
}

// describe finds the schema of a custom resource. Without one its objects may hold anything.
func (c *custom) describe(definition string, k *kinds.Kind) openapi.Resource {
	r := openapi.Resource{Kind: k}
	d, err := find[*apiextensionsv1.CustomResourceDefinition](context.Background(), c.api.objects, definitionResource, "", definition)
	if err != nil {
		c.api.cfg.Logger.Warn("the schema of a custom resource could not be read", zap.String("definition", definition), zap.Error(err))
		return r
	}
	for i := range d.Spec.Versions {
		if v := &d.Spec.Versions[i]; v.Name == k.Version && v.Schema != nil {
			r.Schema = v.Schema.OpenAPIV3Schema
		}
	}
	return r
}

// described are the custom resources with their schemas.
func (c *custom) described() []openapi.Resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.schemas
}

// customTypes describes the fields of a custom resource to server-side apply.
func customTypes(r openapi.Resource) func() (managedfields.TypeConverter, error) {
	return sync.OnceValues(func() (managedfields.TypeConverter, error) {
		all, err := openapi.CustomDefinitions([]openapi.Resource{r})
		if err != nil {
			return nil, err
		}
		return managedfields.NewTypeConverter(all, false)
	})
}

// resource serves a kind.
func (a *API) resource(k *kinds.Kind, types func() (managedfields.TypeConverter, error)) *verbs.Resource {
	return &verbs.Resource{
		Kind: k, Objects: a.cfg.Store.Collection(k), Patcher: patch.New(k, types), Admission: a.chain, Clock: a.cfg.Clock,
	}
}
