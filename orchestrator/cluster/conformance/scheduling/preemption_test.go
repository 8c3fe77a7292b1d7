package scheduling

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func preemption() conformance.Behaviours {
	return conformance.Behaviours{
		"SchedulerPreemption PreemptionExecutionPath runs ReplicaSets to verify preemption running path [Serial]":                         preempts,
		"SchedulerPreemption PriorityClass endpoints verify PriorityClass endpoints can be operated with different HTTP methods [Serial]": classesChange,
		"SchedulerPreemption validates basic preemption works [Serial]":                                                                   preemptsLowest,
		"SchedulerPreemption validates lower priority pod preemption by critical pod [Serial]":                                            preemptsForCritical,
		"SchedulerPreemption validates pod disruption condition is added to the preempted pod [Serial]":                                   preemptsWithCondition,
	}
}

const device = corev1.ResourceName("scheduling.example.com/foo")

// crowd fills four fifths of every node: one pod of low priority, and others of medium priority.
func crowd(t *testing.T, e *conformance.Env, low, medium string) (victim string, others []string) {
	t.Helper()
	for i, n := range nodes(t, e) {
		extend(t, e, n.Name, device, "5")
		for j := range 2 {
			name := fmt.Sprintf("pod-%d-%d", i, j)
			run(t, e, pod(name, func(s *corev1.PodSpec) {
				requests(s, device, "2")
				onto(s, n.Name)
				s.PriorityClassName = medium
				if victim == "" {
					s.PriorityClassName = low
				}
			}))
			if victim == "" {
				victim = name
			} else {
				others = append(others, name)
			}
		}
	}
	for _, name := range append([]string{victim}, others...) {
		conformance.PodRunning(t, e, e.NS, name)
	}
	return victim, others
}

// gave requires that the victim made room, and nobody else.
func gave(t *testing.T, e *conformance.Env, victim string, others []string) {
	t.Helper()
	p, err := e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, victim, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		require.NoError(t, err)
		require.NotNil(t, p.DeletionTimestamp, "the victim stays")
	}
	for _, name := range others {
		p, err := e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		require.Nil(t, p.DeletionTimestamp, name)
	}
}

func preemptsLowest(t *testing.T, e *conformance.Env) {
	c := classes(t, e, 1, 100, 1000)
	victim, others := crowd(t, e, c[0], c[1])
	run(t, e, pod("preemptor", func(s *corev1.PodSpec) {
		requests(s, device, "2")
		s.PriorityClassName = c[2]
	}))
	conformance.PodRunning(t, e, e.NS, "preemptor")
	gave(t, e, victim, others)
}

func preemptsForCritical(t *testing.T, e *conformance.Env) {
	c := classes(t, e, 1, 100)
	victim, others := crowd(t, e, c[0], c[1])
	critical := pod("critical-"+e.NS, func(s *corev1.PodSpec) {
		requests(s, device, "2")
		s.PriorityClassName = "system-cluster-critical"
	})
	critical.Namespace = metav1.NamespaceSystem
	run(t, e, critical)
	t.Cleanup(func() {
		require.NoError(t, e.Client.CoreV1().Pods(metav1.NamespaceSystem).Delete(e.Outlive().Ctx, critical.Name, *metav1.NewDeleteOptions(0)))
	})
	conformance.PodRunning(t, e, metav1.NamespaceSystem, critical.Name)
	gave(t, e, victim, others)
}

func preemptsWithCondition(t *testing.T, e *conformance.Env) {
	const finalizer = "example.com/test-finalizer"
	c := classes(t, e, 1, 1000)
	node := nodes(t, e)[0].Name
	extend(t, e, node, device, "1")
	pods := e.Client.CoreV1().Pods(e.NS)
	on := func(class string) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) {
			requests(s, device, "1")
			onto(s, node)
			s.PriorityClassName = class
		}
	}
	victim := pod("victim", on(c[0]))
	victim.Finalizers = []string{finalizer}
	run(t, e, victim)
	conformance.PodRunning(t, e, e.NS, "victim")
	t.Cleanup(func() {
		conformance.Update(t, e.Outlive(), pods, "victim", func(p *corev1.Pod) { p.Finalizers = nil })
	})
	run(t, e, pod("preemptor", on(c[1])))
	p := conformance.Until(t, e, "the victim is deleted", func() (*corev1.Pod, error) {
		return pods.Get(e.Ctx, "victim", metav1.GetOptions{})
	}, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	d := conformance.PodCondition(p, corev1.DisruptionTarget)
	require.NotNil(t, d, "%+v", p.Status)
	require.Equal(t, corev1.ConditionTrue, d.Status)
	require.Equal(t, corev1.PodReasonPreemptionByScheduler, d.Reason)
}

// preempts lets replica sets of three priorities share a node, and a pod of a fourth take the room of the lowest two, whose
// replacements then wait.
func preempts(t *testing.T, e *conformance.Env) {
	const cpu = corev1.ResourceName("example.com/fakecpu")
	c := classes(t, e, 1, 2, 3, 4)
	node := nodes(t, e)[0].Name
	extend(t, e, node, cpu, "1000")
	spec := func(i int, amount string) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) {
			requests(s, cpu, amount)
			s.NodeSelector, s.PriorityClassName = map[string]string{corev1.LabelHostname: node}, c[i]
		}
	}
	w := conformance.Observe[*corev1.Pod](t, e, e.Client.CoreV1().Pods(e.NS).Watch, metav1.ListOptions{})
	for i, amount := range []string{"200", "300", "450"} {
		p := pod(fmt.Sprintf("pod%d", i+1), spec(i, amount))
		_, err := e.Client.AppsV1().ReplicaSets(e.NS).Create(e.Ctx, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: "rs-" + p.Name},
			Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: p.Labels}, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec,
			}},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		conformance.PodsRunning(t, e, "name="+p.Name, 1)
	}
	run(t, e, pod("pod4", spec(3, "500")))
	conformance.PodRunning(t, e, e.NS, "pod4")
	made := map[string]int{}
	w.Until(watch.Added, "both victims are replaced", func(p *corev1.Pod) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(p.Name, "rs-"), "-")
		made[name]++
		return made["pod1"] == 2 && made["pod2"] == 2 && made["pod4"] == 1
	})
	// Nobody else gives way afterwards: the scheduler has settled when it has told of both replacements that they do not fit.
	for _, name := range []string{"pod1", "pod2"} {
		l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{LabelSelector: "name=" + name, FieldSelector: "spec.nodeName="})
		require.NoError(t, err)
		require.Len(t, l.Items, 1)
		waiting(t, e, l.Items[0].Name)
	}
	for name, n := range map[string]int{"pod1": 2, "pod2": 2, "pod3": 1, "pod4": 1} {
		require.Equal(t, n, made[name], name)
	}
	conformance.PodsRunning(t, e, "name=pod3", 1)
}

func classesChange(t *testing.T, e *conformance.Env) {
	all := e.Client.SchedulingV1().PriorityClasses()
	names := classes(t, e, 1, 2)
	var made [2]*schedulingv1.PriorityClass
	for i, name := range names {
		c, err := all.Get(e.Ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		made[i] = c.DeepCopy()
		c.Value *= 10
		_, err = all.Update(e.Ctx, c, metav1.UpdateOptions{})
		require.True(t, apierrors.IsInvalid(err), "%v", err)
		_, err = all.Patch(e.Ctx, name, types.StrategicMergePatchType, []byte(`{"value":77}`), metav1.PatchOptions{})
		require.True(t, apierrors.IsInvalid(err), "%v", err)
	}
	_, err := all.Patch(e.Ctx, names[0], types.StrategicMergePatchType, []byte(`{"description":"changed"}`), metav1.PatchOptions{})
	require.NoError(t, err)
	conformance.Update(t, e, all, names[1], func(c *schedulingv1.PriorityClass) { c.Description = "changed" })
	l, err := all.List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	found := 0
	for _, c := range l.Items {
		for _, m := range made {
			if c.UID == m.UID {
				found++
				require.Equal(t, m.Value, c.Value)
				require.Equal(t, "changed", c.Description)
				conformance.Newer(t, &c, m)
			}
		}
	}
	require.Equal(t, 2, found)
}
