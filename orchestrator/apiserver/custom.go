package apiserver

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/keelson-io/keelson/orchestrator/apiserver/crd"
	"github.com/keelson-io/keelson/orchestrator/apiserver/openapi"
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
	kinds     []*kinds.Kind                   // of resources, in order
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

// serve makes these the custom resources that are served, beside the built-in ones. Those that are not any more are closed.
func (c *custom) serve(byDefinition map[string][]*kinds.Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	served := map[*kinds.Kind]*verbs.Resource{}
	var custom []*kinds.Kind
	all := slices.Clone(c.api.builtin)
	for _, name := range slices.Sorted(maps.Keys(byDefinition)) {
		versions := byDefinition[name]
		types := sync.OnceValues(func() (managedfields.TypeConverter, error) { return openapi.CustomTypes(versions...) })
		for _, k := range versions {
			if served[k] = c.resources[k]; served[k] == nil {
				served[k] = c.api.resource(k, types, versions...)
			}
			all = append(all, served[k])
			custom = append(custom, k)
		}
	}
	c.api.server.table.Store(newTable(all))
	for k := range c.resources {
		if served[k] == nil {
			c.api.cfg.Store.Remove(k)
		}
	}
	c.resources, c.kinds = served, custom
	c.api.aggregator.Poke()
}

// all are the kinds that are served.
func (c *custom) all() []*kinds.Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kinds
}
