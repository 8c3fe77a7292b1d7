package apiserver_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// TestEvictionSaysWhy has evictions note in the pod that it is disrupted, before it goes; those that are not carried out do not.
func TestEvictionSaysWhy(t *testing.T) {
	c := clientset(t, start(t)(adminToken), "application/json")
	pods := c.CoreV1().Pods("default")
	_, err := c.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	p, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Finalizers: []string{"example.com/hold"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	evict := func(o *metav1.DeleteOptions) error {
		return pods.EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}, DeleteOptions: o})
	}
	condition := func() *corev1.PodCondition {
		now, err := pods.Get(t.Context(), "p", metav1.GetOptions{})
		require.NoError(t, err)
		for i := range now.Status.Conditions {
			if now.Status.Conditions[i].Type == corev1.DisruptionTarget {
				return &now.Status.Conditions[i]
			}
		}
		return nil
	}
	require.NoError(t, evict(&metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}))
	for _, precondition := range []metav1.Preconditions{{UID: ptr.To(types.UID("another"))}, {ResourceVersion: ptr.To("1")}} {
		err = evict(&metav1.DeleteOptions{Preconditions: &precondition})
		require.True(t, apierrors.IsConflict(err), "%v", err)
	}
	require.Nil(t, condition())
	require.NoError(t, evict(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion}}))
	why := condition()
	require.NotNil(t, why)
	require.Equal(t, corev1.ConditionTrue, why.Status)
	require.Equal(t, "EvictionByEvictionAPI", why.Reason)
	p, err = pods.Get(t.Context(), "p", metav1.GetOptions{})
	require.NoError(t, err)
	require.NotNil(t, p.DeletionTimestamp)
}
