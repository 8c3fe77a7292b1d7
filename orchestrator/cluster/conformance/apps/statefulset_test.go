package apps

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func statefulSets() conformance.Behaviours {
	return conformance.Behaviours{
		"StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Burst scaling should run to completion even with unhealthy pods [Slow]":                      statefulBurst,
		"StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Scaling should happen in predictable order and halt if any stateful pod is unhealthy [Slow]": statefulOrder,
		"StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Should recreate evicted statefulset":                                                         statefulEvicted,
		"StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should have a working scale subresource":                                                     statefulScale,
		"StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should list, patch and delete a collection of StatefulSets":                                  statefulCollection,
		"StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform canary updates and phased rolling updates of template modifications":          statefulCanary,
		"StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform rolling updates and roll backs of template modifications":                     statefulRollback,
		"StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should validate Statefulset Status endpoints":                                                statefulStatus,
	}
}

// stateful makes a stateful set "set" whose pods have the label name=app.
func stateful(t *testing.T, e *conformance.Env, replicas int32, change func(*appsv1.StatefulSetSpec)) *appsv1.StatefulSet {
	t.Helper()
	labels := map[string]string{"name": "app"}
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "set", Labels: map[string]string{"set": e.NS}},
		Spec: appsv1.StatefulSetSpec{
			ServiceName: "app", Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels, image),
		},
	}
	if change != nil {
		change(&s.Spec)
	}
	return create(t, e, e.Client.AppsV1().StatefulSets(e.NS), s)
}

// statefulIs waits until the controller has seen the set as it is, and its status is as awaited.
func statefulIs(t *testing.T, e *conformance.Env, what string, is func(s *appsv1.StatefulSetStatus) bool) *appsv1.StatefulSet {
	t.Helper()
	return conformance.Until(t, e, what, func() (*appsv1.StatefulSet, error) {
		return e.Client.AppsV1().StatefulSets(e.NS).Get(e.Ctx, "set", metav1.GetOptions{})
	}, func(s *appsv1.StatefulSet) bool { return s.Status.ObservedGeneration >= s.Generation && is(&s.Status) })
}

func resize(t *testing.T, e *conformance.Env, replicas int32) {
	t.Helper()
	conformance.Update(t, e, e.Client.AppsV1().StatefulSets(e.NS), "set", func(s *appsv1.StatefulSet) { s.Spec.Replicas = &replicas })
}

// sicken makes running pods unready, or ready again, and waits until the set's status says so.
func sicken(t *testing.T, e *conformance.Env, sick bool, ready int32, pods ...string) {
	t.Helper()
	for _, name := range pods {
		conformance.Update(t, e, e.Client.CoreV1().Pods(e.NS), name, func(p *corev1.Pod) {
			metav1.SetMetaDataAnnotation(&p.ObjectMeta, neverReady, fmt.Sprint(sick))
		})
	}
	statefulIs(t, e, fmt.Sprintf("%d pods are ready", ready), func(s *appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == ready })
}

// podEvents watches the pods of the set from now on.
func podEvents(t *testing.T, e *conformance.Env) *conformance.Watch[*corev1.Pod] {
	t.Helper()
	pods := e.Client.CoreV1().Pods(e.NS)
	l, err := pods.List(e.Ctx, metav1.ListOptions{LabelSelector: "name=app"})
	require.NoError(t, err)
	return conformance.Observe[*corev1.Pod](t, e, pods.Watch, metav1.ListOptions{LabelSelector: "name=app", ResourceVersion: l.ResourceVersion})
}

// inOrder requires that events of a type come in the order of some pods.
func inOrder(t *testing.T, w *conformance.Watch[*corev1.Pod], typ watch.EventType, names ...string) {
	t.Helper()
	for _, name := range names {
		require.Equal(t, name, w.Until(typ, name, nil).Name)
	}
}

func podNames(t *testing.T, e *conformance.Env) (names []string) {
	t.Helper()
	l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{LabelSelector: "name=app"})
	require.NoError(t, err)
	for _, p := range l.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

var threePods = []string{"set-0", "set-1", "set-2"}

// statefulOrder scales up and down, one pod after the other, and not while one is sick.
func statefulOrder(t *testing.T, e *conformance.Env) {
	w := podEvents(t, e)
	stateful(t, e, 1, nil)
	conformance.PodsRunning(t, e, "name=app", 1)
	sicken(t, e, true, 0, "set-0")
	resize(t, e, 3)
	statefulIs(t, e, "the set is seen", func(s *appsv1.StatefulSetStatus) bool { return s.Replicas == 1 })
	require.Equal(t, []string{"set-0"}, podNames(t, e))
	sicken(t, e, false, 3, "set-0")
	inOrder(t, w, watch.Added, threePods...)

	w = podEvents(t, e)
	sicken(t, e, true, 0, threePods...)
	resize(t, e, 0)
	statefulIs(t, e, "the set is seen", func(s *appsv1.StatefulSetStatus) bool { return s.Replicas == 3 })
	require.Equal(t, threePods, podNames(t, e))
	for _, name := range threePods[:2] { // the last one may go once it is the only one that is sick
		conformance.Update(t, e, e.Client.CoreV1().Pods(e.NS), name, func(p *corev1.Pod) { delete(p.Annotations, neverReady) })
	}
	inOrder(t, w, watch.Deleted, "set-2", "set-1", "set-0")
}

// statefulBurst scales up and down although pods are sick.
func statefulBurst(t *testing.T, e *conformance.Env) {
	stateful(t, e, 1, func(s *appsv1.StatefulSetSpec) { s.PodManagementPolicy = appsv1.ParallelPodManagement })
	conformance.PodsRunning(t, e, "name=app", 1)
	sicken(t, e, true, 0, "set-0")
	resize(t, e, 3)
	statefulIs(t, e, "the others run", func(s *appsv1.StatefulSetStatus) bool { return s.Replicas == 3 && s.ReadyReplicas == 2 })
	sicken(t, e, true, 0, "set-1", "set-2")
	resize(t, e, 0)
	conformance.PodsRunning(t, e, "name=app", 0)
	statefulIs(t, e, "no pod is left", func(s *appsv1.StatefulSetStatus) bool { return s.Replicas == 0 })
}

// statefulEvicted has a node reject the set's pod again and again, until another one leaves it the port.
func statefulEvicted(t *testing.T, e *conformance.Env) {
	pods := e.Client.CoreV1().Pods(e.NS)
	nodes, err := e.Client.CoreV1().Nodes().List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	on := func(s *corev1.PodSpec) {
		s.NodeName = nodes.Items[0].Name
		s.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 21017}}
	}
	other := pod("other", map[string]string{"name": "other"})
	on(&other.Spec)
	create(t, e, pods, other)
	conformance.PodRunning(t, e, e.NS, "other")
	w := podEvents(t, e)
	stateful(t, e, 1, func(s *appsv1.StatefulSetSpec) { on(&s.Template.Spec) })
	failed := w.Until(watch.Modified, "the pod is rejected", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	require.Equal(t, "set-0", failed.Name)
	require.Equal(t, failed.UID, w.Until(watch.Deleted, "it is deleted", nil).UID)
	require.NotEqual(t, failed.UID, w.Until(watch.Added, "it is made again", nil).UID)
	require.NoError(t, pods.Delete(e.Ctx, "other", metav1.DeleteOptions{}))
	w.Until(watch.Modified, "the pod runs", conformance.PodReady)
	statefulIs(t, e, "the pod is ready", func(s *appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 1 })
}

func statefulScale(t *testing.T, e *conformance.Env) {
	stateful(t, e, 1, nil)
	statefulIs(t, e, "the pod is ready", func(s *appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 1 })
	scales(t, e, "statefulsets", "set")
}

func statefulCollection(t *testing.T, e *conformance.Env) {
	sets, everywhere := e.Client.AppsV1().StatefulSets(e.NS), e.Client.AppsV1().StatefulSets("")
	selector := metav1.ListOptions{LabelSelector: "set=" + e.NS}
	stateful(t, e, 1, nil)
	l, err := everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	patched, err := sets.Patch(e.Ctx, "set", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}},"spec":{"replicas":2,
		"template":{"spec":{"containers":[{"name":"app","image":"`+nextImage+`"}]}}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", patched.Labels["stage"])
	require.EqualValues(t, 2, *patched.Spec.Replicas)
	require.Equal(t, nextImage, patched.Spec.Template.Spec.Containers[0].Image)
	statefulIs(t, e, "both pods are of the new template", func(s *appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 2 && s.UpdatedReplicas == 2 })
	require.NoError(t, sets.DeleteCollection(e.Ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(1))}, selector))
	l, err = everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	require.Empty(t, l.Items)
}

func statefulStatus(t *testing.T, e *conformance.Env) {
	stateful(t, e, 1, nil)
	statefulIs(t, e, "the pod is ready", func(s *appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 1 })
	statusConditions(t, e, "statefulsets", "set")
}

// images are the images of the set's pods in order, each with the revision that the pod says it is of.
func images(t *testing.T, e *conformance.Env) (out []string) {
	t.Helper()
	pods := conformance.PodsRunning(t, e, "name=app", 3)
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range pods {
		out = append(out, p.Spec.Containers[0].Image+" "+p.Labels[appsv1.StatefulSetRevisionLabel])
	}
	return out
}

// reimage changes the image of the set's template, and returns the set as it was once its status had the revision of that, in
// the middle of the rollout.
func reimage(t *testing.T, e *conformance.Env, image string) *appsv1.StatefulSet {
	t.Helper()
	sets := e.Client.AppsV1().StatefulSets(e.NS)
	s := conformance.Update(t, e, sets, "set", func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = image })
	w := conformance.Observe[*appsv1.StatefulSet](t, e, sets.Watch, metav1.ListOptions{FieldSelector: "metadata.name=set", ResourceVersion: s.ResourceVersion})
	return w.Until(watch.Modified, "the new revision is seen", func(s *appsv1.StatefulSet) bool {
		return s.Status.ObservedGeneration >= s.Generation && s.Status.UpdateRevision != s.Status.CurrentRevision
	})
}

// statefulRollback updates the pods of a set, the highest number first, and back: to the first revision, not to a third one.
func statefulRollback(t *testing.T, e *conformance.Env) {
	stateful(t, e, 3, nil)
	first := statefulIs(t, e, "all are ready", func(s *appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 3 }).Status.CurrentRevision
	before := image + " " + first
	require.Equal(t, []string{before, before, before}, images(t, e))
	second := ""
	for _, to := range []string{nextImage, image} {
		sicken(t, e, true, 2, "set-0") // it is replaced before the others
		w := podEvents(t, e)
		s := reimage(t, e, to)
		switch {
		case second == "":
			second = s.Status.UpdateRevision
			require.Equal(t, first, s.Status.CurrentRevision)
			require.NotEqual(t, first, second)
		default:
			require.Equal(t, first, s.Status.UpdateRevision, "it is the first revision again")
			require.Equal(t, second, s.Status.CurrentRevision)
		}
		inOrder(t, w, watch.Deleted, "set-0")
		inOrder(t, w, watch.Deleted, "set-2", "set-1")
		s = statefulIs(t, e, "the rollout ends", func(x *appsv1.StatefulSetStatus) bool {
			return x.CurrentRevision == s.Status.UpdateRevision && x.UpdatedReplicas == 3 && x.ReadyReplicas == 3
		})
		all := to + " " + s.Status.UpdateRevision
		require.Equal(t, []string{all, all, all}, images(t, e))
	}
}

// statefulCanary updates the pods of a set from a number on, which it lowers step by step.
func statefulCanary(t *testing.T, e *conformance.Env) {
	sets := e.Client.AppsV1().StatefulSets(e.NS)
	partition := func(n int32) appsv1.StatefulSetUpdateStrategy {
		return appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}}
	}
	stateful(t, e, 3, func(s *appsv1.StatefulSetSpec) { s.UpdateStrategy = partition(3) })
	statefulIs(t, e, "all are ready", func(s *appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 3 })
	s := reimage(t, e, nextImage)
	before, after := image+" "+s.Status.CurrentRevision, nextImage+" "+s.Status.UpdateRevision
	require.Equal(t, []string{before, before, before}, images(t, e))
	move := func(n int32, want ...string) {
		t.Helper()
		conformance.Update(t, e, sets, "set", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy = partition(n) })
		statefulIs(t, e, fmt.Sprintf("%d pods are updated", 3-n), func(s *appsv1.StatefulSetStatus) bool { return s.UpdatedReplicas == 3-n && s.ReadyReplicas == 3 })
		require.Equal(t, want, images(t, e))
	}
	move(2, before, before, after)
	for _, name := range []string{"set-0", "set-2"} {
		p, err := e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		require.NoError(t, e.Client.CoreV1().Pods(e.NS).Delete(e.Ctx, name, metav1.DeleteOptions{}))
		conformance.Eventually(t, e, name+" is replaced", func() (bool, error) {
			l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
			return err == nil && len(l.Items) == 1 && l.Items[0].UID != p.UID, err
		})
	}
	require.Equal(t, []string{before, before, after}, images(t, e), "those that were deleted are back as they were")
	move(1, before, after, after)
	move(0, after, after, after)
	statefulIs(t, e, "the rollout is over", func(x *appsv1.StatefulSetStatus) bool { return x.CurrentRevision == s.Status.UpdateRevision })
}
