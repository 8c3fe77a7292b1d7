package apiserver

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
	"github.com/keelson-io/keelson/orchestrator/apiserver/media"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Metrics knows what nodes and pods use at present. What it returns has times and usages; nil: it is not known.
type Metrics interface {
	NodeMetrics(name string) *metricsv1beta1.NodeMetrics
	PodMetrics(namespace, name string) *metricsv1beta1.PodMetrics
}

// Nodes returns the names of the nodes that have servers.
func (a *API) Nodes(ctx context.Context) (names []string, err error) {
	all, err := a.objects.List(ctx, nodeResource, "")
	for _, o := range all {
		if n, ok := o.(*corev1.Node); ok && n.Status.DaemonEndpoints.KubeletEndpoint.Port != 0 {
			names = append(names, n.Name)
		}
	}
	return names, err
}

// AskNode gets something from a node's server. What comes back is to be closed.
func (a *API) AskNode(ctx context.Context, name, path string) (io.ReadCloser, error) {
	node, err := find[*corev1.Node](ctx, a.objects, nodeResource, "", name)
	if err != nil {
		return nil, err
	}
	to, err := a.connector.Node(node, path, nil)
	if err != nil {
		return nil, err
	}
	return a.connector.Get(ctx, to, nodeResource, name)
}

// metered is a resource of metrics.k8s.io. Its objects are those of another resource, with what they use.
type metered struct {
	kind *kinds.Kind
	of   schema.GroupResource
	// measure returns what an object uses, nil if it is not known.
	measure func(m Metrics, o kinds.Object) kinds.Object
}

func columns(names ...string) (out []metav1.TableColumnDefinition) {
	for _, n := range names {
		c := metav1.TableColumnDefinition{Name: n, Type: "string", Description: n}
		if n == "Name" {
			c.Format = "name"
		}
		out = append(out, c)
	}
	return out
}

// cells are those of name, processor, memory and window.
func cells(name string, used corev1.ResourceList, window time.Duration) []any {
	return []any{
		name, strconv.FormatInt(used.Cpu().MilliValue(), 10) + "m", strconv.FormatInt(used.Memory().Value()>>20, 10) + "Mi", window.Round(time.Millisecond).String(),
	}
}

func meteredKind(kind, plural string, namespaced bool) *kinds.Kind {
	k := &kinds.Kind{
		GroupVersionKind: metricsv1beta1.SchemeGroupVersion.WithKind(kind), Resource: plural, Namespaced: namespaced, Verbs: []string{"get", "list"},
		Columns: columns("Name", "CPU", "Memory", "Window"),
	}
	return k
}

func nodeMetrics() metered {
	k := meteredKind("NodeMetrics", "nodes", false)
	k.New, k.NewList = func() kinds.Object { return &metricsv1beta1.NodeMetrics{} }, func() runtime.Object { return &metricsv1beta1.NodeMetricsList{} }
	k.Row = func(o kinds.Object, _ time.Time) []any {
		m, _ := o.(*metricsv1beta1.NodeMetrics) // it is one
		return cells(m.Name, m.Usage, m.Window.Duration)
	}
	return metered{kind: k, of: nodeResource, measure: func(m Metrics, o kinds.Object) kinds.Object {
		if out := m.NodeMetrics(o.GetName()); out != nil {
			return out
		}
		return nil
	}}
}

func podMetrics() metered {
	k := meteredKind("PodMetrics", "pods", true)
	k.New, k.NewList = func() kinds.Object { return &metricsv1beta1.PodMetrics{} }, func() runtime.Object { return &metricsv1beta1.PodMetricsList{} }
	k.Row = func(o kinds.Object, _ time.Time) []any {
		m, _ := o.(*metricsv1beta1.PodMetrics) // it is one
		sum := corev1.ResourceList{}
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			var q resource.Quantity
			for _, c := range m.Containers {
				q.Add(c.Usage[name])
			}
			sum[name] = q
		}
		return cells(m.Name, sum, m.Window.Duration)
	}
	return metered{kind: k, of: podResource, measure: func(m Metrics, o kinds.Object) kinds.Object {
		if p, ok := o.(*corev1.Pod); !ok || p.Status.Phase != corev1.PodRunning {
			return nil
		}
		if out := m.PodMetrics(o.GetNamespace(), o.GetName()); out != nil {
			return out
		}
		return nil
	}}
}

// metricsResources are how discovery and OpenAPI tell of them.
func metricsResources() (out []discovery.Virtual) {
	for _, m := range []metered{nodeMetrics(), podMetrics()} {
		out = append(out, discovery.Virtual{
			GroupVersionKind: m.kind.GroupVersionKind, Resource: m.kind.Resource, Verbs: m.kind.Verbs, Namespaced: m.kind.Namespaced,
			New: func() runtime.Object { return m.kind.New() }, NewList: m.kind.NewList,
		})
	}
	return out
}

// metricsRights let everybody see what pods and nodes use who may see a namespace.
func (a *API) metricsRights() []kinds.Object {
	if a.cfg.Metrics == nil {
		return nil
	}
	role := &rbacv1.ClusterRole{
		TypeMeta:   metav1.TypeMeta{Kind: "ClusterRole", APIVersion: rbacv1.SchemeGroupVersion.String()},
		ObjectMeta: metav1.ObjectMeta{Name: "system:aggregated-metrics-reader", Labels: map[string]string{}},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{metricsv1beta1.GroupName}, Resources: []string{"nodes", "pods"}}},
	}
	for _, to := range []string{"admin", "edit", "view"} {
		role.Labels["rbac.authorization.k8s.io/aggregate-to-"+to] = "true"
	}
	return []kinds.Object{role}
}

// metrics are the calls that serve metrics.k8s.io.
func (a *API) metrics() map[part]func(*call) error {
	out := map[part]func(*call) error{}
	if a.cfg.Metrics == nil {
		return out
	}
	for _, m := range []metered{nodeMetrics(), podMetrics()} {
		out[part{metricsv1beta1.GroupName, m.kind.Resource, ""}] = func(c *call) error { return a.usage(c, m) }
	}
	return out
}

// usage answers with what objects use.
func (a *API) usage(c *call, m metered) (err error) {
	if c.info.Version != m.kind.Version {
		return errNoSuchPath
	}
	if c.format, err = media.Accept(c.r, media.Answer{}); err != nil { // rows of tables, too
		return err
	}
	if c.format.Table() {
		c.shown.Include = metav1.IncludeObjectPolicy(c.query.Get("includeObject"))
	}
	switch {
	case c.info.Verb == "get":
		return a.usageOf(c, m)
	case c.info.Verb == "list":
		return a.usages(c, m)
	}
	return apierrors.NewMethodNotSupported(m.kind.GroupResource(), c.info.Verb)
}

func (a *API) usageOf(c *call, m metered) error {
	o, err := a.objects.Get(c.ctx(), m.of, c.info.Namespace, c.info.Name, false)
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(m.kind.GroupResource(), c.info.Name)
	}
	if err != nil {
		return err
	}
	it := a.used(m, o)
	if it == nil {
		return apierrors.NewNotFound(m.kind.GroupResource(), c.info.Name)
	}
	b, err := c.format.Object(m.kind, it, c.shown)
	if err != nil {
		return err
	}
	return c.write(http.StatusOK, b)
}

// used is an object's usage with the object's name and labels, nil if it is not known.
func (a *API) used(m metered, o kinds.Object) *objectstore.Item {
	u := m.measure(a.cfg.Metrics, o)
	if u == nil {
		return nil
	}
	u.SetName(o.GetName())
	u.SetNamespace(o.GetNamespace())
	u.SetLabels(o.GetLabels())
	u.SetCreationTimestamp(metav1.Time{Time: a.cfg.Clock.Now().Truncate(time.Second)})
	u.GetObjectKind().SetGroupVersionKind(m.kind.GroupVersionKind)
	return objectstore.NewItem(u, 0)
}

func (a *API) usages(c *call, m metered) error {
	var lo metav1.ListOptions
	if err := c.options(&lo); err != nil {
		return err
	}
	ls, err := labels.Parse(lo.LabelSelector)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	fs, err := fields.ParseSelector(lo.FieldSelector)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	all, err := a.objects.List(c.ctx(), m.of, c.info.Namespace)
	if err != nil {
		return err
	}
	page := &objectstore.Page{}
	for _, o := range all {
		of := fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
		if p, ok := o.(*corev1.Pod); ok {
			of["spec.nodeName"] = p.Spec.NodeName
		}
		if !ls.Matches(labels.Set(o.GetLabels())) || !fs.Matches(of) {
			continue
		}
		if it := a.used(m, o); it != nil {
			page.Items = append(page.Items, it)
		}
	}
	slices.SortFunc(page.Items, func(x, y *objectstore.Item) int {
		return cmp.Or(cmp.Compare(x.Object.GetNamespace(), y.Object.GetNamespace()), cmp.Compare(x.Object.GetName(), y.Object.GetName()))
	})
	out := c.begin(http.StatusOK, len(page.Items)*aboutSize)
	if err := c.format.List(out, m.kind, page, c.shown); err != nil {
		return errAborted // half an answer is there
	}
	_ = out.Close() // the client is gone
	return nil
}
