package informers

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	namespace = "watched"
	restarts  = 4
	between   = 150 // acknowledged writes between restarts
)

var (
	configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")
	pods       = corev1.SchemeGroupVersion.WithResource("pods")
	widgets    = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}
)

// follow runs the program over restarts of what it follows.
func follow(t *testing.T, kubeconfig string, restart func(inOrder bool)) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	require.NoError(t, err)
	config.QPS = -1
	prepare(t, config)

	counted := rest.CopyConfig(config)
	lists := counter{lists: map[string]int{}, broken: map[string]int{}}
	counted.Wrap(lists.count)
	p := startProgram(t, counted)
	lists.begin()
	var w writers
	for _, resource := range []schema.GroupVersionResource{configMaps, pods, widgets} {
		w.start(t.Context(), t, config, resource)
	}
	for i := range restarts {
		w.wait(t, between)
		restart(i%2 == 0)
	}
	w.wait(t, between)
	w.stop()

	for resource, h := range p.histories {
		h.settled(t, config, resource)
		relists, broken := lists.of(resource)
		t.Logf("%s: %d writes acknowledged, %d unclear, %d events, %d relists, %d watches broken as they began", resource.Resource,
			w.acknowledged(resource), w.unclear(resource), h.len(), relists, broken)
		require.LessOrEqual(t, broken, 2*restarts, "watches end that nobody broke")
		require.LessOrEqual(t, relists, broken, "a client that lists anew was not asked to; it was refused %q", lists.said())
		h.check(t, w.of(resource), relists > 0)
	}
}

// prepare makes what the program needs.
func prepare(t *testing.T, config *rest.Config) {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	_, err = client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := client.CoreV1().ServiceAccounts(namespace).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	}, limit, 20*time.Millisecond)
	ext, err := apiextensions.NewForConfig(config)
	require.NoError(t, err)
	preserve := true
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: widgets.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: widgets.Version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve}},
			}},
		},
	}
	_, err = ext.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		c, err := ext.ApiextensionsV1().CustomResourceDefinitions().Get(t.Context(), crd.Name, metav1.GetOptions{})
		require.NoError(t, err)
		for _, x := range c.Status.Conditions {
			if x.Type == apiextensionsv1.Established && x.Status == apiextensionsv1.ConditionTrue {
				return true
			}
		}
		return false
	}, limit, 20*time.Millisecond)
}

// program is what is tested: shared informers of two built-in kinds and a custom one.
type program struct {
	histories map[schema.GroupVersionResource]*history
}

func startProgram(t *testing.T, config *rest.Config) *program {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	dyn, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	typed := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	custom := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dyn, 0, namespace, nil)
	p := &program{histories: map[schema.GroupVersionResource]*history{
		configMaps: newHistory(t, typed.Core().V1().ConfigMaps().Informer()),
		pods:       newHistory(t, typed.Core().V1().Pods().Informer()),
		widgets:    newHistory(t, custom.ForResource(widgets).Informer()),
	}}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		typed.Shutdown()
		custom.Shutdown()
	})
	typed.Start(ctx.Done())
	custom.Start(ctx.Done())
	for _, h := range p.histories {
		require.True(t, cache.WaitForCacheSync(ctx.Done(), h.synced))
	}
	return p
}

// counter counts how often the objects of a resource were asked for anew: as a list, or as a watch that begins with all. It also
// counts watches of which a kill took the connection before there was an answer, or as soon as there was one. Reflectors list anew
// then: they take only a refused connection for a server that will be back.
type counter struct {
	mu     sync.Mutex
	lists  map[string]int // by the last element of the path
	broken map[string]int
	// refused are the answers that said no, with what was asked.
	refused []string
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (c *counter) count(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		a, err := next.RoundTrip(r)
		resource, q := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:], r.URL.Query()
		c.mu.Lock()
		defer c.mu.Unlock()
		anew := q.Get("watch") == "" || q.Get("sendInitialEvents") == "true"
		switch {
		case err == nil && a.StatusCode != http.StatusOK:
			c.refused = append(c.refused, a.Status+" "+r.URL.RequestURI())
			return a, err
		case anew && err == nil:
			c.lists[resource]++
		case !anew && err != nil && !utilnet.IsConnectionRefused(err):
			c.broken[resource]++
		}
		if err == nil && q.Get("watch") != "" {
			a.Body = &stream{ReadCloser: a.Body, ended: func() { c.breaks(resource) }, begun: time.Now()}
		}
		return a, err
	})
}

func (c *counter) breaks(resource string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken[resource]++
}

// short is how long a watch has to last for a reflector to go on where it ended, rather than to list anew.
const short = time.Second

// stream is a watch's body. One that ends as soon as it began is broken.
type stream struct {
	io.ReadCloser
	ended func()
	begun time.Time
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	if err != nil && s.ended != nil {
		if time.Since(s.begun) < short {
			s.ended()
		}
		s.ended = nil
	}
	return n, err
}

// begin forgets what was counted: a server that has just come to know a custom resource may end a first watch of it early.
func (c *counter) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.lists)
	clear(c.broken)
	c.refused = nil
}

// of returns how often a resource was listed since then, and how many watches of it broke as they began.
func (c *counter) of(resource schema.GroupVersionResource) (relists, broken int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lists[resource.Resource], c.broken[resource.Resource]
}

// said returns the answers that said no.
func (c *counter) said() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.refused)
}

// lost says that a write failed without an answer to it: it may have happened.
func lost(err error) bool {
	return !utilnet.IsConnectionRefused(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err)
}
