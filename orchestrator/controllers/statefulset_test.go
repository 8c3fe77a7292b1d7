package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func statefulSet(replicas int32, change func(s *appsv1.StatefulSet)) *appsv1.StatefulSet {
	labels := map[string]string{"app": "s"}
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "sts", Generation: 1},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "svc", Selector: &metav1.LabelSelector{MatchLabels: labels}, PodManagementPolicy: appsv1.OrderedReadyPodManagement,
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "one"}}}},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](0)},
			},
			RevisionHistoryLimit: ptr.To[int32](10),
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

// has waits until there are just these pods, each as "name image".
func (w *world) has(pods ...string) {
	w.t.Helper()
	w.podsAre(func(p *corev1.Pod) string { return p.Name + " " + p.Spec.Containers[0].Image }, pods...)
}

func (w *world) stateful(change func(s *appsv1.StatefulSet)) {
	eventually(w.t, func() error {
		s, err := w.client.AppsV1().StatefulSets("ns").Get(w.ctx, "s", metav1.GetOptions{})
		if err != nil {
			return err
		}
		s = s.DeepCopy()
		change(s)
		_, err = w.client.AppsV1().StatefulSets("ns").Update(w.ctx, s, metav1.UpdateOptions{})
		return err
	})
}

// grow makes the pods of a set ready one after the other.
func (w *world) grow(n int, image string) {
	var all []string
	for i := range n {
		name := fmt.Sprintf("s-%d", i)
		all = append(all, name+" "+image)
		w.has(all...)
		w.setReady(name, corev1.ConditionTrue)
	}
}

func TestStatefulSetInOrder(t *testing.T) {
	w := start(t, NewStatefulSet, statefulSet(3, func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	}))
	w.grow(3, "one")
	p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, "s-2", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "s-2", p.Spec.Hostname)
	require.Equal(t, "svc", p.Spec.Subdomain)
	require.Equal(t, "2", p.Labels[appsv1.PodIndexLabel])
	require.Equal(t, "data-s-2", p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName)
	_, err = w.client.CoreV1().PersistentVolumeClaims("ns").Get(w.ctx, "data-s-2", metav1.GetOptions{})
	require.NoError(t, err)

	// One that goes comes back under its name, with its claim.
	require.NoError(t, w.client.CoreV1().Pods("ns").Delete(w.ctx, "s-1", metav1.DeleteOptions{}))
	eventually(t, func() error {
		p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, "s-1", metav1.GetOptions{})
		if err == nil && p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-s-1" {
			return fmt.Errorf("%+v", p.Spec.Volumes)
		}
		return err
	})

	// While one that is to stay is not ready nothing is taken away.
	w.setReady("s-1", corev1.ConditionTrue)
	w.readyReplicas(3)
	w.setReady("s-0", corev1.ConditionFalse)
	w.readyReplicas(2)
	w.stateful(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1); s.Generation = 2 })
	eventually(t, func() error {
		s, err := w.client.AppsV1().StatefulSets("ns").Get(w.ctx, "s", metav1.GetOptions{})
		if err == nil && s.Status.ObservedGeneration != s.Generation {
			return fmt.Errorf("%+v", s.Status)
		}
		return err
	})
	w.has("s-0 one", "s-1 one", "s-2 one")
	w.setReady("s-0", corev1.ConditionTrue)
	w.has("s-0 one")
	claims, err := w.client.CoreV1().PersistentVolumeClaims("ns").List(w.ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, claims.Items, 3) // the data stays
}

// readyReplicas waits until the status says so.
func (w *world) readyReplicas(n int32) {
	w.t.Helper()
	eventually(w.t, func() error {
		s, err := w.client.AppsV1().StatefulSets("ns").Get(w.ctx, "s", metav1.GetOptions{})
		if err == nil && s.Status.ReadyReplicas != n {
			return fmt.Errorf("%+v", s.Status)
		}
		return err
	})
}

func TestStatefulSetUpdates(t *testing.T) {
	w := start(t, NewStatefulSet, statefulSet(3, nil))
	w.grow(3, "one")
	w.stateful(func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](2)
		s.Spec.Template.Spec.Containers[0].Image = "two"
	})
	w.has("s-0 one", "s-1 one", "s-2 two")
	w.setReady("s-2", corev1.ConditionTrue)

	// What is below the partition comes back as it was.
	require.NoError(t, w.client.CoreV1().Pods("ns").Delete(w.ctx, "s-0", metav1.DeleteOptions{}))
	w.has("s-0 one", "s-1 one", "s-2 two")
	w.setReady("s-0", corev1.ConditionTrue)
	w.readyReplicas(3)
	w.stateful(func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0) })
	w.has("s-0 one", "s-1 two", "s-2 two")
	w.setReady("s-1", corev1.ConditionTrue)
	w.has("s-0 two", "s-1 two", "s-2 two")
	w.setReady("s-0", corev1.ConditionTrue)
	eventually(t, func() error {
		s, err := w.client.AppsV1().StatefulSets("ns").Get(w.ctx, "s", metav1.GetOptions{})
		if err == nil && (s.Status.CurrentRevision != s.Status.UpdateRevision || s.Status.CurrentReplicas != 3 || s.Status.ReadyReplicas != 3) {
			return fmt.Errorf("%+v", s.Status)
		}
		return err
	})
}

// TestStatefulSetMendsItself has an update that never becomes ready, and then one that would.
func TestStatefulSetMendsItself(t *testing.T) {
	w := start(t, NewStatefulSet, statefulSet(2, nil))
	w.grow(2, "one")
	w.stateful(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "bad" })
	w.has("s-0 one", "s-1 bad")
	w.stateful(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "good" })
	w.has("s-0 one", "s-1 good")
}

func TestStatefulSetParallel(t *testing.T) {
	w := start(t, NewStatefulSet, statefulSet(3, func(s *appsv1.StatefulSet) {
		s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
	}))
	w.has("s-5 one", "s-6 one", "s-7 one")
	w.stateful(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](0) })
	w.has()
}

// TestStatefulSetOnDelete leaves pods as they are until somebody deletes them.
func TestStatefulSetOnDelete(t *testing.T) {
	w := start(t, NewStatefulSet, statefulSet(2, func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	}))
	w.grow(2, "one")
	w.stateful(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "two" })
	eventually(t, func() error {
		s, err := w.client.AppsV1().StatefulSets("ns").Get(w.ctx, "s", metav1.GetOptions{})
		if err == nil && s.Status.CurrentRevision == s.Status.UpdateRevision {
			return fmt.Errorf("%+v", s.Status)
		}
		return err
	})
	w.has("s-0 one", "s-1 one")
	require.NoError(t, w.client.CoreV1().Pods("ns").Delete(w.ctx, "s-1", metav1.DeleteOptions{}))
	w.has("s-0 one", "s-1 two")
}

// TestStatefulSetClaimPolicy hands claims to what they go with.
func TestStatefulSetClaimPolicy(t *testing.T) {
	w := start(t, NewStatefulSet, statefulSet(2, func(s *appsv1.StatefulSet) {
		s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
			WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
		}
	}))
	w.has("s-0 one", "s-1 one")
	owners := func() string {
		var out []string
		l, err := w.client.CoreV1().PersistentVolumeClaims("ns").List(w.ctx, metav1.ListOptions{})
		require.NoError(t, err)
		for _, c := range l.Items {
			for _, r := range c.OwnerReferences {
				out = append(out, c.Name+"="+r.Kind+"/"+r.Name)
			}
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	is := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if got := owners(); got != want {
				return fmt.Errorf("%s, not %s", got, want)
			}
			return nil
		})
	}
	is("data-s-0=StatefulSet/s data-s-1=StatefulSet/s")
	w.stateful(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1) })
	is("data-s-0=StatefulSet/s data-s-1=Pod/s-1")
	w.has("s-0 one")
}
