package scheduler

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

// owner names an object that selects pods.
type owner struct{ apiVersion, kind, namespace, name string }

// cluster is what plugins want to know besides nodes and pods. It changes between attempts only.
type cluster struct {
	namespaces map[string]labels.Set
	services   map[string]map[string]labels.Set // selectors by namespace and name
	owners     map[owner]labels.Selector
	budgets    map[string]*policyv1.PodDisruptionBudget
	// list is made of budgets when it is asked for.
	list    []*policyv1.PodDisruptionBudget
	storage *storage.Table
}

var _ framework.Cluster = (*cluster)(nil)

func newCluster() *cluster {
	return &cluster{
		namespaces: map[string]labels.Set{}, services: map[string]map[string]labels.Set{}, owners: map[owner]labels.Selector{},
		budgets: map[string]*policyv1.PodDisruptionBudget{}, storage: storage.New(),
	}
}

func (c *cluster) NamespaceLabels(namespace string) labels.Set { return c.namespaces[namespace] }

// OwnerSelector selects by the selectors of all services of the pod, and of its controller.
func (c *cluster) OwnerSelector(pod *v1.Pod) labels.Selector {
	merged := labels.Set{}
	for _, selector := range c.services[pod.Namespace] {
		if selector.AsSelectorPreValidated().Matches(labels.Set(pod.Labels)) {
			maps.Copy(merged, selector)
		}
	}
	out := merged.AsSelector()
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return out
	}
	if s, known := c.owners[owner{ref.APIVersion, ref.Kind, pod.Namespace, ref.Name}]; known {
		if requirements, selectable := s.Requirements(); selectable {
			out = out.Add(requirements...)
		}
	}
	return out
}

func (c *cluster) Budgets() []*policyv1.PodDisruptionBudget {
	if c.list == nil && len(c.budgets) > 0 {
		for _, b := range c.budgets {
			c.list = append(c.list, b)
		}
	}
	return c.list
}

func (c *cluster) Storage() *storage.Table { return c.storage }

// set takes an object that came or changed.
func (c *cluster) set(obj any) {
	switch o := obj.(type) {
	case *v1.Namespace:
		c.namespaces[o.Name] = orEmpty(o.Labels)
	case *v1.Service:
		in := c.services[o.Namespace]
		if o.Spec.Selector == nil {
			delete(in, o.Name)
			return
		}
		if in == nil {
			in = map[string]labels.Set{}
			c.services[o.Namespace] = in
		}
		in[o.Name] = o.Spec.Selector
	case *policyv1.PodDisruptionBudget:
		c.budgets[o.Namespace+"/"+o.Name], c.list = o, nil
	default:
		if key, selector, ok := ownerOf(obj); ok {
			c.owners[key] = selector
			return
		}
		c.storage.Set(obj)
	}
}

// remove takes an object that is gone.
func (c *cluster) remove(obj any) {
	switch o := obj.(type) {
	case *v1.Namespace:
		delete(c.namespaces, o.Name)
	case *v1.Service:
		if delete(c.services[o.Namespace], o.Name); len(c.services[o.Namespace]) == 0 {
			delete(c.services, o.Namespace)
		}
	case *policyv1.PodDisruptionBudget:
		delete(c.budgets, o.Namespace+"/"+o.Name)
		c.list = nil
	default:
		if key, _, ok := ownerOf(obj); ok {
			delete(c.owners, key)
			return
		}
		c.storage.Remove(obj)
	}
}

func ownerOf(obj any) (owner, labels.Selector, bool) {
	switch o := obj.(type) {
	case *v1.ReplicationController:
		return owner{"v1", "ReplicationController", o.Namespace, o.Name}, labels.SelectorFromSet(o.Spec.Selector), true
	case *appsv1.ReplicaSet:
		return owner{"apps/v1", "ReplicaSet", o.Namespace, o.Name}, parsed(o.Spec.Selector), true
	case *appsv1.StatefulSet:
		return owner{"apps/v1", "StatefulSet", o.Namespace, o.Name}, parsed(o.Spec.Selector), true
	}
	return owner{}, nil, false
}

func parsed(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

func orEmpty(l map[string]string) labels.Set {
	if l == nil {
		return labels.Set{}
	}
	return l
}
