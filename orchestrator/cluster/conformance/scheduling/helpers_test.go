package scheduling

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestScheduler(t *testing.T) {
	conformance.Test(t, predicates(), preemption())
}

// pod is a pod of one container. It is gone at once when it is deleted.
func pod(name string, change func(*corev1.PodSpec)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "pause", Image: "registry.example/pause:1"}}},
	}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

// requests makes a pod request, and be limited to, an amount.
func requests(s *corev1.PodSpec, name corev1.ResourceName, amount string) {
	r := corev1.ResourceList{name: resource.MustParse(amount)}
	s.Containers[0].Resources = corev1.ResourceRequirements{Requests: r, Limits: r}
}

// onto makes a pod fit on one node only, by the node's name.
func onto(s *corev1.PodSpec, node string) {
	s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
		}}},
	}}}
}

func run(t *testing.T, e *conformance.Env, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	ns := e.NS
	if p.Namespace != "" {
		ns = p.Namespace
	}
	p, err := e.Client.CoreV1().Pods(ns).Create(e.Ctx, p, metav1.CreateOptions{})
	require.NoError(t, err)
	return p
}

// waiting waits until the scheduler has said that a pod fits nowhere.
func waiting(t *testing.T, e *conformance.Env, name string) {
	t.Helper()
	conformance.Eventually(t, e, name+" cannot be scheduled", func() (bool, error) {
		l, err := e.Client.CoreV1().Events(e.NS).List(e.Ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod,reason=FailedScheduling,involvedObject.name=" + name})
		if err != nil {
			return false, err
		}
		return len(l.Items) > 0, nil
	})
	p, err := e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Empty(t, p.Spec.NodeName)
	require.Equal(t, corev1.PodPending, p.Status.Phase)
}

func nodes(t *testing.T, e *conformance.Env) []corev1.Node {
	t.Helper()
	l, err := e.Client.CoreV1().Nodes().List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(l.Items), 2)
	return l.Items
}

// label labels a node, until the test ends.
func label(t *testing.T, e *conformance.Env, node, key, value string) {
	t.Helper()
	all := e.Client.CoreV1().Nodes()
	conformance.Update(t, e, all, node, func(n *corev1.Node) { n.Labels[key] = value })
	t.Cleanup(func() {
		conformance.Update(t, e.Outlive(), all, node, func(n *corev1.Node) { delete(n.Labels, key) })
	})
}

// extend gives a node an amount of an extended resource, until the test ends.
func extend(t *testing.T, e *conformance.Env, node string, name corev1.ResourceName, amount string) {
	t.Helper()
	all := e.Client.CoreV1().Nodes()
	conformance.UpdateStatus(t, e, all, node, func(n *corev1.Node) {
		n.Status.Capacity[name], n.Status.Allocatable[name] = resource.MustParse(amount), resource.MustParse(amount)
	})
	t.Cleanup(func() {
		conformance.UpdateStatus(t, e.Outlive(), all, node, func(n *corev1.Node) {
			delete(n.Status.Capacity, name)
			delete(n.Status.Allocatable, name)
		})
	})
}

// classes makes priority classes, until the test ends, and returns their names.
func classes(t *testing.T, e *conformance.Env, values ...int32) (names []string) {
	t.Helper()
	all := e.Client.SchedulingV1().PriorityClasses()
	for _, v := range values {
		c, err := all.Create(e.Ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{GenerateName: e.NS + "-"}, Value: v}, metav1.CreateOptions{})
		require.NoError(t, err)
		names = append(names, c.Name)
		t.Cleanup(func() { require.NoError(t, all.Delete(e.Outlive().Ctx, c.Name, metav1.DeleteOptions{})) })
	}
	return names
}
