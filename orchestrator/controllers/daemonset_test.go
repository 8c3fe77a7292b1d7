package controllers

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func daemonSet(name string) *appsv1.DaemonSet {
	labels := map[string]string{"app": name}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "ds", Generation: 1},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "one"}}}},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt32(1)), MaxSurge: ptr.To(intstr.FromInt32(0))},
			},
			RevisionHistoryLimit: ptr.To[int32](10),
		},
	}
}

func machine(name string, labels map[string]string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
}

// onNodes waits until the pods are meant for just these nodes.
func (w *world) onNodes(nodes ...string) {
	w.t.Helper()
	w.podsAre(daemonNode, nodes...)
}

func TestDaemonSetFollowsNodes(t *testing.T) {
	tainted := corev1.Taint{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}
	w := start(t, NewDaemonSet, daemonSet("d"), machine("a", nil), machine("b", nil), machine("c", nil, tainted))
	w.onNodes("a", "b")
	p := w.pods()[0]
	require.Equal(t, p.Labels[appsv1.ControllerRevisionHashLabelKey], w.revisions()[0].Labels[appsv1.ControllerRevisionHashLabelKey])
	require.Contains(t, p.Spec.Tolerations, corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})

	// Nodes that come get one, a taint that is gone lets one in, NoExecute drives one away.
	_, err := w.client.CoreV1().Nodes().Create(w.ctx, machine("d", nil), metav1.CreateOptions{})
	require.NoError(t, err)
	w.onNodes("a", "b", "d")
	w.setNode("c", func(n *corev1.Node) { n.Spec.Taints = nil })
	w.onNodes("a", "b", "c", "d")
	w.setNode("a", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "out", Effect: corev1.TaintEffectNoExecute}}
	})
	w.onNodes("b", "c", "d")
	require.NoError(t, w.client.CoreV1().Nodes().Delete(w.ctx, "d", metav1.DeleteOptions{}))
	w.onNodes("b", "c")
}

func (w *world) setNode(name string, change func(n *corev1.Node)) {
	eventually(w.t, func() error {
		n, err := w.client.CoreV1().Nodes().Get(w.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		n = n.DeepCopy()
		change(n)
		_, err = w.client.CoreV1().Nodes().Update(w.ctx, n, metav1.UpdateOptions{})
		return err
	})
}

func (w *world) revisions() []appsv1.ControllerRevision {
	l, err := w.client.AppsV1().ControllerRevisions("ns").List(w.ctx, metav1.ListOptions{})
	require.NoError(w.t, err)
	return l.Items
}

func TestDaemonSetNodeSelector(t *testing.T) {
	d := daemonSet("d")
	d.Spec.Template.Spec.NodeSelector = map[string]string{"color": "blue"}
	w := start(t, NewDaemonSet, d, machine("a", map[string]string{"color": "blue"}), machine("b", nil))
	w.onNodes("a")
	w.setNode("b", func(n *corev1.Node) { n.Labels = map[string]string{"color": "blue"} })
	w.onNodes("a", "b")
	w.setNode("a", func(n *corev1.Node) { n.Labels = nil })
	w.onNodes("b")
}

func (w *world) daemon(change func(d *appsv1.DaemonSet)) {
	eventually(w.t, func() error {
		d, err := w.client.AppsV1().DaemonSets("ns").Get(w.ctx, "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		d = d.DeepCopy()
		change(d)
		_, err = w.client.AppsV1().DaemonSets("ns").Update(w.ctx, d, metav1.UpdateOptions{})
		return err
	})
}

// images are those of the pods, by node.
func (w *world) images() map[string]string {
	out := map[string]string{}
	for _, p := range w.pods() {
		out[daemonNode(&p)] += p.Spec.Containers[0].Image
	}
	return out
}

func (w *world) readyAll() {
	for _, p := range w.pods() {
		if !isReady(&p) {
			w.setReady(p.Name, corev1.ConditionTrue)
		}
	}
}

// TestDaemonSetRollout has two nodes, of which one may be without its daemon at a time.
func TestDaemonSetRollout(t *testing.T) {
	w := start(t, NewDaemonSet, daemonSet("d"), machine("a", nil), machine("b", nil))
	w.onNodes("a", "b")
	w.readyAll()
	w.daemon(func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "two" })
	eventually(t, func() error {
		if got := w.images(); got["a"]+got["b"] != "onetwo" && got["a"]+got["b"] != "twoone" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	w.readyAll()
	eventually(t, func() error {
		if got := w.images(); got["a"]+got["b"] != "twotwo" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	w.readyAll()
	require.Len(t, w.revisions(), 2)

	// Back to the first: its revision gets a new number, and no third is made.
	w.daemon(func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "one" })
	eventually(t, func() error {
		w.readyAll()
		if got := w.images(); got["a"]+got["b"] != "oneone" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	var numbers []int64
	for _, r := range w.revisions() {
		numbers = append(numbers, r.Revision)
	}
	slices.Sort(numbers)
	require.Equal(t, []int64{2, 3}, numbers)
	eventually(t, func() error {
		w.readyAll()
		d, err := w.client.AppsV1().DaemonSets("ns").Get(w.ctx, "d", metav1.GetOptions{})
		if s := d.Status; err != nil || s.NumberReady != 2 || s.UpdatedNumberScheduled != 2 || s.NumberUnavailable != 0 || s.DesiredNumberScheduled != 2 {
			return fmt.Errorf("%v %+v", err, s)
		}
		return nil
	})
}

// TestDaemonSetSurge has a new daemon run beside the old one until it is available.
func TestDaemonSetSurge(t *testing.T) {
	d := daemonSet("d")
	d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt32(0)), MaxSurge: ptr.To(intstr.FromInt32(1))}
	w := start(t, NewDaemonSet, d, machine("a", nil))
	w.onNodes("a")
	w.readyAll()
	w.daemon(func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "two" })
	w.onNodes("a", "a")
	w.readyAll()
	w.onNodes("a")
	require.Equal(t, "two", w.images()["a"])
}

// TestDaemonSetReplacesWhatFailed deletes a failed pod at once, and the next one not before a while has passed.
func TestDaemonSetReplacesWhatFailed(t *testing.T) {
	w := start(t, NewDaemonSet, daemonSet("d"), machine("a", nil))
	w.onNodes("a")
	first := w.pods()[0]
	first.Status.Phase = corev1.PodFailed
	_, err := w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, &first, metav1.UpdateOptions{})
	require.NoError(t, err)
	eventually(t, func() error {
		if pods := w.pods(); len(pods) != 1 || pods[0].UID == first.UID {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
}
