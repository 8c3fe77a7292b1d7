package apps

import (
	"fmt"
	"slices"
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

func daemonSets() conformance.Behaviours {
	return conformance.Behaviours{
		"ControllerRevision should manage the lifecycle of a ControllerRevision [Serial]":                  revisionLifecycle,
		"Daemon set should list and delete a collection of DaemonSets [Serial]":                            daemonCollection,
		"Daemon set should retry creating failed daemon pods [Serial]":                                     daemonRetries,
		"Daemon set should rollback without unnecessary restarts [Serial]":                                 daemonRollback,
		"Daemon set should run and stop complex daemon [Serial]":                                           daemonComplex,
		"Daemon set should run and stop simple daemon [Serial]":                                            daemonSimple,
		"Daemon set should update pod when spec was updated and update strategy is RollingUpdate [Serial]": daemonUpdate,
		"Daemon set should verify changes to a daemon set status [Serial]":                                 daemonStatus,
	}
}

// daemon makes a daemon set "daemon" whose pods have the label name=app.
func daemon(t *testing.T, e *conformance.Env, change func(*appsv1.DaemonSetSpec)) *appsv1.DaemonSet {
	t.Helper()
	labels := map[string]string{"name": "app"}
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "daemon", Labels: map[string]string{"daemon": e.NS}},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels, image)},
	}
	if change != nil {
		change(&ds.Spec)
	}
	return create(t, e, e.Client.AppsV1().DaemonSets(e.NS), ds)
}

func nodeNames(t *testing.T, e *conformance.Env) (names []string) {
	t.Helper()
	l, err := e.Client.CoreV1().Nodes().List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, n := range l.Items {
		names = append(names, n.Name)
	}
	require.GreaterOrEqual(t, len(names), 2)
	return names
}

// daemonOn waits until the daemon has a ready pod on each of some nodes and none elsewhere, of which its status tells, too.
func daemonOn(t *testing.T, e *conformance.Env, nodes ...string) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	conformance.Eventually(t, e, fmt.Sprintf("the daemon runs on %v", nodes), func() (bool, error) {
		l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{LabelSelector: "name=app"})
		if err != nil {
			return false, err
		}
		var on []string
		for _, p := range l.Items {
			if !conformance.PodReady(&p) {
				return false, nil
			}
			on = append(on, p.Spec.NodeName)
		}
		slices.Sort(on)
		pods = l.Items
		return slices.Equal(slices.Sorted(slices.Values(nodes)), on), nil
	})
	daemonIs(t, e, "its status says so", func(s *appsv1.DaemonSetStatus) bool {
		n := int32(len(nodes))
		return s.DesiredNumberScheduled == n && s.CurrentNumberScheduled == n && s.NumberReady == n && s.NumberAvailable == n && s.NumberMisscheduled == 0
	})
	return pods
}

// daemonIs waits until the controller has seen the daemon as it is, and its status is as awaited.
func daemonIs(t *testing.T, e *conformance.Env, what string, is func(*appsv1.DaemonSetStatus) bool) *appsv1.DaemonSet {
	t.Helper()
	return conformance.Until(t, e, what, func() (*appsv1.DaemonSet, error) {
		return e.Client.AppsV1().DaemonSets(e.NS).Get(e.Ctx, "daemon", metav1.GetOptions{})
	}, func(ds *appsv1.DaemonSet) bool {
		return ds.Status.ObservedGeneration >= ds.Generation && is(&ds.Status)
	})
}

func daemonSimple(t *testing.T, e *conformance.Env) {
	daemon(t, e, nil)
	nodes := nodeNames(t, e)
	pods := daemonOn(t, e, nodes...)
	require.NoError(t, e.Client.CoreV1().Pods(e.NS).Delete(e.Ctx, pods[0].Name, metav1.DeleteOptions{}))
	gone(t, e, pods[0].UID)
	daemonOn(t, e, nodes...)
}

// gone waits until a pod is gone.
func gone(t *testing.T, e *conformance.Env, uid types.UID) {
	t.Helper()
	conformance.Eventually(t, e, "the pod is gone", func() (bool, error) {
		l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{})
		return err == nil && !slices.ContainsFunc(l.Items, func(p corev1.Pod) bool { return p.UID == uid }), err
	})
}

// daemonComplex follows the labels of a node.
func daemonComplex(t *testing.T, e *conformance.Env) {
	const color = "conformance.keelson.io/color"
	node := nodeNames(t, e)[0]
	paint := func(e *conformance.Env, value string) {
		conformance.Update(t, e, e.Client.CoreV1().Nodes(), node, func(n *corev1.Node) {
			if delete(n.Labels, color); value != "" {
				n.Labels[color] = value
			}
		})
	}
	t.Cleanup(func() { paint(e.Outlive(), "") })
	daemon(t, e, func(s *appsv1.DaemonSetSpec) {
		s.Template.Spec.NodeSelector = map[string]string{color: "blue"}
		s.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	})
	daemonOn(t, e)
	paint(e, "blue")
	daemonOn(t, e, node)
	paint(e, "green")
	daemonOn(t, e)
	conformance.Update(t, e, e.Client.AppsV1().DaemonSets(e.NS), "daemon", func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Spec.NodeSelector[color] = "green"
		ds.Spec.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	})
	daemonOn(t, e, node)
}

func daemonRetries(t *testing.T, e *conformance.Env) {
	daemon(t, e, nil)
	nodes := nodeNames(t, e)
	p := daemonOn(t, e, nodes...)[0]
	conformance.UpdateStatus(t, e, e.Client.CoreV1().Pods(e.NS), p.Name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	gone(t, e, p.UID)
	daemonOn(t, e, nodes...)
}

// revisions waits until the daemon has so many revisions, and returns them, the oldest first.
func revisions(t *testing.T, e *conformance.Env, selector string, count int) []appsv1.ControllerRevision {
	t.Helper()
	l := conformance.Until(t, e, fmt.Sprintf("there are %d revisions", count), func() (*appsv1.ControllerRevisionList, error) {
		return e.Client.AppsV1().ControllerRevisions("").List(e.Ctx, metav1.ListOptions{LabelSelector: selector})
	}, func(l *appsv1.ControllerRevisionList) bool { return len(l.Items) == count })
	slices.SortFunc(l.Items, func(a, b appsv1.ControllerRevision) int { return int(a.Revision - b.Revision) })
	return l.Items
}

// daemonUpdate replaces pods, one at a time.
func daemonUpdate(t *testing.T, e *conformance.Env) {
	sets := e.Client.AppsV1().DaemonSets(e.NS)
	ds := daemon(t, e, func(s *appsv1.DaemonSetSpec) {
		s.Template.Labels["update"], s.UpdateStrategy.Type = e.NS, appsv1.RollingUpdateDaemonSetStrategyType
	})
	nodes := nodeNames(t, e)
	of := func(count int, image string) {
		t.Helper()
		r := revisions(t, e, "update="+e.NS, count)
		require.EqualValues(t, count, r[count-1].Revision)
		require.True(t, metav1.IsControlledBy(&r[count-1], ds))
		for _, p := range daemonOn(t, e, nodes...) {
			require.Equal(t, image, p.Spec.Containers[0].Image)
			require.Equal(t, r[count-1].Labels[appsv1.DefaultDaemonSetUniqueLabelKey], p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey])
		}
	}
	of(1, image)
	w := conformance.Observe[*appsv1.DaemonSet](t, e, sets.Watch, metav1.ListOptions{FieldSelector: "metadata.name=daemon", ResourceVersion: ds.ResourceVersion})
	w.Until(watch.Modified, "all are available", func(ds *appsv1.DaemonSet) bool { return int(ds.Status.NumberAvailable) == len(nodes) })
	patched, err := sets.Patch(e.Ctx, "daemon", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"`+nextImage+`"}]}}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	w.Until(watch.Modified, "all are of the new template", func(ds *appsv1.DaemonSet) bool {
		require.LessOrEqual(t, ds.Status.NumberUnavailable, int32(1))
		return ds.Generation == patched.Generation && ds.Status.ObservedGeneration == ds.Generation && int(ds.Status.UpdatedNumberScheduled) == len(nodes) && int(ds.Status.NumberAvailable) == len(nodes)
	})
	of(2, nextImage)
}

// daemonRollback goes back from a rollout that does not get on: the pods that it did not come to stay.
func daemonRollback(t *testing.T, e *conformance.Env) {
	sets := e.Client.AppsV1().DaemonSets(e.NS)
	daemon(t, e, func(s *appsv1.DaemonSetSpec) { s.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType })
	nodes := nodeNames(t, e)
	before := map[types.UID]bool{}
	for _, p := range daemonOn(t, e, nodes...) {
		before[p.UID] = true
	}
	conformance.Update(t, e, sets, "daemon", func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Annotations = map[string]string{neverReady: "true"}
		ds.Spec.Template.Spec.Containers[0].Image = nextImage
	})
	daemonIs(t, e, "a new pod runs and is not ready", func(s *appsv1.DaemonSetStatus) bool {
		return s.UpdatedNumberScheduled == 1 && s.NumberUnavailable == 1
	})
	l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{LabelSelector: "name=app"})
	require.NoError(t, err)
	var stay []types.UID
	for _, p := range l.Items {
		if before[p.UID] {
			stay = append(stay, p.UID)
		}
	}
	require.Len(t, stay, len(nodes)-1)
	conformance.Update(t, e, sets, "daemon", func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Annotations = nil
		ds.Spec.Template.Spec.Containers[0].Image = image
	})
	var after []types.UID
	for _, p := range daemonOn(t, e, nodes...) {
		require.Equal(t, image, p.Spec.Containers[0].Image)
		after = append(after, p.UID)
	}
	require.Subset(t, after, stay)
}

func daemonCollection(t *testing.T, e *conformance.Env) {
	sets, everywhere := e.Client.AppsV1().DaemonSets(e.NS), e.Client.AppsV1().DaemonSets("")
	selector := metav1.ListOptions{LabelSelector: "daemon=" + e.NS}
	daemon(t, e, nil)
	daemonOn(t, e, nodeNames(t, e)...)
	l, err := everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.NoError(t, sets.DeleteCollection(e.Ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(1))}, selector))
	l, err = everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	require.Empty(t, l.Items)
	conformance.PodsRunning(t, e, "name=app", 0)
}

func daemonStatus(t *testing.T, e *conformance.Env) {
	daemon(t, e, nil)
	daemonOn(t, e, nodeNames(t, e)...)
	statusConditions(t, e, "daemonsets", "daemon")
}

// revisionLifecycle makes, changes and deletes revisions beside the controller, which counts on from what it finds.
func revisionLifecycle(t *testing.T, e *conformance.Env) {
	all := e.Client.AppsV1().ControllerRevisions(e.NS)
	selector := "revisions=" + e.NS
	ds := daemon(t, e, func(s *appsv1.DaemonSetSpec) { s.Template.Labels["revisions"] = e.NS })
	daemonOn(t, e, nodeNames(t, e)...)
	first := revisions(t, e, selector, 1)[0]
	require.True(t, metav1.IsControlledBy(&first, ds))
	got, err := all.Get(e.Ctx, first.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, first.UID, got.UID)
	patched, err := all.Patch(e.Ctx, first.Name, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", patched.Labels["stage"])
	second := create(t, e, all, &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: "second", Labels: first.Labels, OwnerReferences: first.OwnerReferences}, Data: first.Data, Revision: first.Revision + 1,
	})
	require.Len(t, revisions(t, e, selector, 2), 2)
	require.NoError(t, all.Delete(e.Ctx, first.Name, metav1.DeleteOptions{}))
	require.Equal(t, second.UID, revisions(t, e, selector, 1)[0].UID)
	updated := conformance.Update(t, e, all, "second", func(r *appsv1.ControllerRevision) { r.Labels["second"] = e.NS })
	require.Equal(t, e.NS, updated.Labels["second"])
	_, err = e.Client.AppsV1().DaemonSets(e.NS).Patch(e.Ctx, "daemon", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	revisions(t, e, selector, 2)
	daemonOn(t, e, nodeNames(t, e)...)
	require.NoError(t, all.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "second=" + e.NS}))
	require.EqualValues(t, 3, revisions(t, e, selector, 1)[0].Revision)
}
