package apiserver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/keelson-io/keelson/orchestrator/apiserver/crd"
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
	resources map[*kinds.Kind]*verbs.Resource // that are served
}

// newCustom follows the definitions, if there are any.
func newCustom(a *API) (*custom, error) {
	c := &custom{api: a, webhook: crd.NewWebhook(services{a.objects}), resources: map[*kinds.Kind]*verbs.Resource{}}
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
	served := map[*kinds.Kind]*verbs.Resource{}
	all := slices.Clone(c.api.builtin)
	for _, name := range slices.Sorted(maps.Keys(byDefinition)) {
		for _, k := range byDefinition[name] {
			r := c.resources[k]
			if r == nil {
				r = c.api.resource(k, c.types(name, k))
			}
			served[k] = r
			all = append(all, r)
		}
	}
	c.resources = served
	c.api.server.table.Store(newTable(all))
}

// types describes the fields of a custom resource to server-side apply.
func (c *custom) types(definition string, k *kinds.Kind) func() (managedfields.TypeConverter, error) {
	return sync.OnceValues(func() (managedfields.TypeConverter, error) {
		d, err := find[*apiextensionsv1.CustomResourceDefinition](context.Background(), c.api.objects, definitionResource, "", definition)
		if err != nil {
			return nil, err
		}
		return customTypes(d, k)
	})
}

// resource serves a kind.
func (a *API) resource(k *kinds.Kind, types func() (managedfields.TypeConverter, error)) *verbs.Resource {
	return &verbs.Resource{
		Kind: k, Objects: a.cfg.Store.Collection(k), Patcher: patch.New(k, types), Admission: a.chain, Clock: a.cfg.Clock,
	}
}

// customTypes makes a converter of a definition's schemas.
func customTypes(d *apiextensionsv1.CustomResourceDefinition, _ *kinds.Kind) (managedfields.TypeConverter, error) {
	return managedfields.NewTypeConverter(crd.Schemas(d, false), true)
}
