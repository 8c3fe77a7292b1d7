package controllers

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

func replicaSet(name string, replicas int32) *appsv1.ReplicaSet {
	labels := map[string]string{"app": name}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("rs-" + name), Generation: 1},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To(replicas), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}},
		},
	}
}

// status waits until a replica set has so many pods, so many of them ready.
func (w *world) status(name string, replicas, ready int32) {
	w.t.Helper()
	eventually(w.t, func() error {
		rs, err := w.client.AppsV1().ReplicaSets("ns").Get(w.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if n := int32(len(w.pods())); n != replicas || rs.Status.Replicas != replicas || rs.Status.ReadyReplicas != ready {
			return fmt.Errorf("%d pods, status %+v", n, rs.Status)
		}
		return nil
	})
}

func TestReplicas(t *testing.T) {
	w := start(t, NewReplicaSet, replicaSet("a", 5))
	w.status("a", 5, 0)
	first := w.pods()
	for _, p := range first[:3] {
		require.Equal(t, types.UID("rs-a"), p.OwnerReferences[0].UID)
		require.True(t, *p.OwnerReferences[0].Controller)
		w.setReady(p.Name, corev1.ConditionTrue)
	}
	w.status("a", 5, 3)

	// One that goes is replaced; of those that are too many, the ones that are not ready go first.
	require.NoError(t, w.client.CoreV1().Pods("ns").Delete(w.ctx, first[4].Name, metav1.DeleteOptions{}))
	w.status("a", 5, 3)
	rs, err := w.client.AppsV1().ReplicaSets("ns").Get(w.ctx, "a", metav1.GetOptions{})
	require.NoError(t, err)
	rs.Spec.Replicas = ptr.To(int32(3))
	_, err = w.client.AppsV1().ReplicaSets("ns").Update(w.ctx, rs, metav1.UpdateOptions{})
	require.NoError(t, err)
	w.status("a", 3, 3)

	// One that has failed is no longer counted.
	p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, first[0].Name, metav1.GetOptions{})
	require.NoError(t, err)
	p.Status.Phase = corev1.PodFailed
	_, err = w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, p, metav1.UpdateOptions{})
	require.NoError(t, err)
	eventually(t, func() error {
		if n := len(w.pods()); n != 4 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}

// TestAdoption has pods that a replica set selects and does not own, and the other way round.
func TestAdoption(t *testing.T) {
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "orphan", UID: "1", Labels: map[string]string{"app": "a"}}}
	stray := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "stray", UID: "2", Labels: map[string]string{"app": "b"},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(replicaSet("a", 0), appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
	}}
	foreign := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "foreign", UID: "3", Labels: map[string]string{"app": "a"},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(replicaSet("z", 0), appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
	}}
	w := start(t, NewReplicaSet, replicaSet("a", 2), orphan, stray, foreign)
	eventually(t, func() error {
		own := 0
		for _, p := range w.pods() {
			ref := metav1.GetControllerOf(&p)
			switch {
			case p.Name == "stray" && ref != nil:
				return errors.New("not released")
			case p.Name == "foreign" && ref.Name != "z":
				return errors.New("stolen")
			case ref != nil && ref.UID == "rs-a":
				own++
			}
		}
		if n := len(w.pods()); own != 2 || n != 4 {
			return fmt.Errorf("%d of %d pods are its own", own, n)
		}
		return nil
	})
}

// TestNoPods cannot create pods for a while.
func TestNoPods(t *testing.T) {
	w := newWorld(t, replicaSet("a", 20))
	refused := make(chan struct{})
	attempts := 0
	w.client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		select {
		case <-refused:
			return false, nil, nil
		default:
			attempts++
			return true, nil, errors.New("quota exceeded")
		}
	})
	c, err := NewReplicaSet(w.client, w.factory, w.events, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)
	eventually(t, func() error {
		rs, err := w.client.AppsV1().ReplicaSets("ns").Get(w.ctx, "a", metav1.GetOptions{})
		if err == nil && (len(rs.Status.Conditions) != 1 || rs.Status.Conditions[0].Message != "quota exceeded") {
			err = fmt.Errorf("%+v", rs.Status)
		}
		return err
	})
	close(refused)
	w.status("a", 20, 0)
	eventually(t, func() error {
		rs, err := w.client.AppsV1().ReplicaSets("ns").Get(w.ctx, "a", metav1.GetOptions{})
		if err == nil && len(rs.Status.Conditions) != 0 {
			err = errors.New("the condition stays")
		}
		return err
	})
}

func TestSlowStart(t *testing.T) {
	n, err := slowStart(10, func() error { return nil })
	require.NoError(t, err)
	require.Equal(t, 10, n)
	calls := make(chan struct{}, 100)
	n, err = slowStart(100, func() error {
		calls <- struct{}{}
		if len(calls) > 3 {
			return context.Canceled
		}
		return nil
	})
	require.Error(t, err)
	require.Less(t, len(calls), 10)
	require.GreaterOrEqual(t, n, 3)
}

// TestVictims ranks pairs of pods: the first of each goes first.
func TestVictims(t *testing.T) {
	now := time.Now()
	pod := func(f func(p *corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
		}}}
		p.CreationTimestamp = metav1.NewTime(now.Add(-2 * time.Hour))
		f(p)
		return p
	}
	plain := func(*corev1.Pod) {}
	for name, f := range map[string]func(p *corev1.Pod){
		"no node":       func(p *corev1.Pod) { p.Spec.NodeName = "" },
		"pending":       func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
		"unknown":       func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown },
		"not ready":     func(p *corev1.Pod) { p.Status.Conditions = nil },
		"cheap":         func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} },
		"ready lately":  func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now) },
		"restarted":     func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} },
		"created later": func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute)) },
	} {
		first, second := pod(f), pod(plain)
		require.Same(t, first, victims([]*corev1.Pod{second, first}, 1, now)[0], name)
		require.Same(t, first, victims([]*corev1.Pod{first, second}, 1, now)[0], name)
	}
	lonely := pod(func(p *corev1.Pod) { p.Spec.NodeName = "other" })
	require.NotContains(t, victims([]*corev1.Pod{lonely, pod(plain), pod(plain)}, 2, now), lonely)
}
