package controllers

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/keelson-io/keelson/internal/clock"
)

// TestNamespaceGoes deletes a namespace with pods, which take their time, and other things, which have to wait for them.
func TestNamespaceGoes(t *testing.T) {
	now := metav1.Now()
	going := &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "going", ResourceVersion: "1", DeletionTimestamp: &now}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	}
	staying := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "staying", ResourceVersion: "1"}, Spec: going.Spec}
	w := newWorld(t, going, staying)
	finalized := make(chan []corev1.FinalizerName, 10)
	w.client.PrependReactor("create", "namespaces", func(a clienttesting.Action) (bool, runtime.Object, error) {
		o := a.(clienttesting.CreateAction).GetObject().(*corev1.Namespace)
		if a.GetSubresource() == "finalize" {
			finalized <- o.Spec.Finalizers
		}
		return a.GetSubresource() == "finalize", o, nil
	})

	gvk := func(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }
	scheme := fake.NewTestScheme()
	require.NoError(t, metav1.AddMetaToScheme(scheme))
	var objects []runtime.Object
	for _, kind := range []string{"Pod", "ConfigMap"} {
		scheme.AddKnownTypeWithName(gvk(kind), &metav1.PartialObjectMetadata{})
		scheme.AddKnownTypeWithName(gvk(kind+"List"), &metav1.PartialObjectMetadataList{})
		for _, namespace := range []string{"going", "staying"} {
			m := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "x"}}
			m.SetGroupVersionKind(gvk(kind))
			if kind == "Pod" {
				m.Finalizers = []string{"slow"}
			}
			objects = append(objects, m)
		}
	}
	md := fake.NewSimpleMetadataClient(scheme, objects...)
	md.PrependReactor("delete-collection", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetResource().Resource == "pods" { // marked, and there still
			return true, nil, nil
		}
		return true, nil, md.Tracker().Delete(a.GetResource(), a.GetNamespace(), "x")
	})
	c, err := NewNamespace(w.client, md, func() ([]NamespacedResource, error) {
		return []NamespacedResource{{corev1.SchemeGroupVersion.WithResource("configmaps"), true}, {podsResource, true}}, nil
	}, w.factory, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)

	condition := func(t corev1.NamespaceConditionType) corev1.NamespaceCondition {
		ns, _ := w.client.CoreV1().Namespaces().Get(w.ctx, "going", metav1.GetOptions{})
		for _, c := range ns.Status.Conditions {
			if c.Type == t {
				return c
			}
		}
		return corev1.NamespaceCondition{}
	}
	eventually(t, func() error {
		if c := condition(corev1.NamespaceContentRemaining); c.Message != "Some resources are remaining: pods has 1 resource instances" || c.Status != corev1.ConditionTrue {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	require.Equal(t, "Some content in the namespace has finalizers remaining: slow in 1 resource instances", condition(corev1.NamespaceFinalizersRemaining).Message)
	_, err = md.Tracker().Get(corev1.SchemeGroupVersion.WithResource("configmaps"), "going", "x")
	require.NoError(t, err, "the pod is still there and may need it")
	require.Empty(t, finalized)

	require.NoError(t, md.Tracker().Delete(podsResource, "going", "x"))
	c.(*namespaceController).queue.Add("going")
	select {
	case f := <-finalized:
		require.Empty(t, f)
	case <-time.After(20 * time.Second):
		require.Fail(t, "not finalized")
	}
	_, err = md.Tracker().Get(corev1.SchemeGroupVersion.WithResource("configmaps"), "going", "x")
	require.Error(t, err)
	for _, r := range []string{"configmaps", "pods"} {
		_, err := md.Tracker().Get(corev1.SchemeGroupVersion.WithResource(r), "staying", "x")
		require.NoError(t, err)
	}
	require.Equal(t, corev1.ConditionFalse, condition(corev1.NamespaceContentRemaining).Status)
}

// TestNamespaceUnknownContent does not let a namespace go when it cannot be known what is in it.
func TestNamespaceUnknownContent(t *testing.T) {
	now := metav1.Now()
	w := newWorld(t, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "going", ResourceVersion: "1", DeletionTimestamp: &now}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	})
	scheme := fake.NewTestScheme()
	require.NoError(t, metav1.AddMetaToScheme(scheme))
	c, err := NewNamespace(w.client, fake.NewSimpleMetadataClient(scheme), func() ([]NamespacedResource, error) { return nil, errors.New("a group is down") },
		w.factory, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)
	eventually(t, func() error {
		ns, err := w.client.CoreV1().Namespaces().Get(w.ctx, "going", metav1.GetOptions{})
		if err == nil && (len(ns.Status.Conditions) == 0 || ns.Status.Conditions[0].Reason != "DiscoveryFailed") {
			err = fmt.Errorf("%+v", ns.Status)
		}
		return err
	})
	for _, a := range w.client.Actions() {
		require.NotEqual(t, "finalize", a.GetSubresource())
	}
}
