package crd

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// untracked notes nothing of who changed what.
type untracked struct{}

func (untracked) Apply(context.Context, kinds.Object, []byte, verbs.PatchOptions) (kinds.Object, []string, error) {
	panic("no patches here")
}

func (untracked) Track(_, changed kinds.Object, _ verbs.PatchOptions) (kinds.Object, error) {
	return changed, nil
}

// world is a store whose custom resources are served.
type world struct {
	t       *testing.T
	client  *client.Client
	objects *objectstore.Store
	defs    *verbs.Resource

	mu     sync.Mutex
	served map[string][]*kinds.Kind
}

func start(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	c := servertest.Start(t, 1, servertest.Quick()...)
	cl, err := client.New(client.Config{Endpoints: c.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = cl.Close() })
	return manage(t, cl, change...)
}

// beside serves the same store once more.
func (w *world) beside() *world { return manage(w.t, w.client) }

func manage(t *testing.T, cl *client.Client, change ...func(*Config)) *world {
	w := &world{t: t, client: cl, objects: objectstore.New(objectstore.Config{Client: cl})}
	t.Cleanup(func() { require.NoError(t, w.objects.Close()) })
	set, err := kinds.NewSet(kinds.Builtin()...)
	require.NoError(t, err)
	w.defs = w.resource(set.ByKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition")))
	cfg := Config{Objects: w.objects, Definitions: w.defs.Objects, Builtin: set.All(), Serve: w.serve}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m, done := NewManager(cfg), make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-m.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("the manager is not ready")
	}
	return w
}

// serve replaces what is served, as a server would.
func (w *world) serve(table map[string][]*kinds.Kind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	keep := map[*kinds.Kind]bool{}
	for _, list := range table {
		for _, k := range list {
			keep[k] = true
		}
	}
	for _, list := range w.served {
		for _, k := range list {
			if !keep[k] {
				w.objects.Remove(k)
			}
		}
	}
	w.served = maps.Clone(table)
}

func (w *world) resource(k *kinds.Kind) *verbs.Resource {
	return &verbs.Resource{Kind: k, Objects: w.objects.Collection(k), Patcher: untracked{}, Admission: admission.NewChain(), Clock: clock.Real}
}

// of returns what serves a kind, nil if nothing does.
func (w *world) of(apiVersion, kind string) *verbs.Resource {
	w.mu.Lock()
	defer w.mu.Unlock()
	gv, err := schema.ParseGroupVersion(apiVersion)
	require.NoError(w.t, err)
	for _, list := range w.served {
		for _, k := range list {
			if k.GroupVersionKind == gv.WithKind(kind) {
				return w.resource(k)
			}
		}
	}
	return nil
}

// define creates a definition.
func (w *world) define(c *apiextensionsv1.CustomResourceDefinition) {
	w.t.Helper()
	_, err := w.defs.Create(w.t.Context(), &verbs.Target{}, c)
	require.NoError(w.t, err)
}

// establish creates a definition and waits until it is established.
func (w *world) establish(c *apiextensionsv1.CustomResourceDefinition) {
	w.t.Helper()
	w.define(c)
	w.await(c.Name, apiextensionsv1.Established, "True")
}

func (w *world) definition(name string) *apiextensionsv1.CustomResourceDefinition {
	it, err := w.defs.Get(w.t.Context(), "", name, "")
	if err != nil {
		return nil
	}
	return it.Object.(*apiextensionsv1.CustomResourceDefinition).DeepCopy()
}

// condition returns "status reason".
func condition(c *apiextensionsv1.CustomResourceDefinition, of apiextensionsv1.CustomResourceDefinitionConditionType) (status, reason, text string) {
	for _, cond := range c.Status.Conditions {
		if cond.Type == of {
			return string(cond.Status), cond.Reason, cond.Message
		}
	}
	return "", "", ""
}

// await waits for a condition.
func (w *world) await(name string, of apiextensionsv1.CustomResourceDefinitionConditionType, status string) *apiextensionsv1.CustomResourceDefinition {
	w.t.Helper()
	var c *apiextensionsv1.CustomResourceDefinition
	require.Eventually(w.t, func() bool {
		if c = w.definition(name); c == nil {
			return false
		}
		have, _, _ := condition(c, of)
		return have == status
	}, 10*time.Second, 5*time.Millisecond, "%s of %s", of, name)
	return c
}

// change updates a definition.
func (w *world) change(name string, f func(*apiextensionsv1.CustomResourceDefinition)) error {
	for {
		c := w.definition(name)
		require.NotNil(w.t, c)
		f(c)
		_, _, err := w.defs.Update(w.t.Context(), &verbs.Target{Name: name}, c)
		if !conflict(err) {
			return err
		}
	}
}

// parse reads a definition.
func parse(t testing.TB, text string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	c := &apiextensionsv1.CustomResourceDefinition{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(text), c))
	return c
}

// object reads an object.
func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	j, err := yaml.YAMLToJSON([]byte(text))
	require.NoError(t, err)
	require.NoError(t, u.UnmarshalJSON(j))
	return u
}

// simple is a definition of objects that may be anything.
func simple(group, plural, kind string) *apiextensionsv1.CustomResourceDefinition {
	anything := true
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind}, Scope: apiextensionsv1.NamespaceScoped,
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", XPreserveUnknownFields: &anything,
				}},
			}},
		},
	}
}
