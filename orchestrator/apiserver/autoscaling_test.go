package apiserver_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyautoscaling "k8s.io/client-go/applyconfigurations/autoscaling/v2"
)

// An autoscaler is the same object in both of its versions.
func TestAutoscalerVersions(t *testing.T) {
	c := clientset(t, start(t)(adminToken), "")
	v1, v2, ctx := c.AutoscalingV1().HorizontalPodAutoscalers("default"), c.AutoscalingV2().HorizontalPodAutoscalers("default"), t.Context()
	made, err := v1.Create(ctx, &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			MaxReplicas: 3, ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 80, *made.Spec.TargetCPUUtilizationPercentage)
	require.EqualValues(t, 1, made.Generation)

	_, err = v2.Apply(ctx, applyautoscaling.HorizontalPodAutoscaler("web", "default").WithSpec(applyautoscaling.HorizontalPodAutoscalerSpec().WithBehavior(
		applyautoscaling.HorizontalPodAutoscalerBehavior().WithScaleUp(applyautoscaling.HPAScalingRules().WithStabilizationWindowSeconds(7)),
	)), metav1.ApplyOptions{FieldManager: "test"})
	require.NoError(t, err)
	old, err := v1.Get(ctx, "web", metav1.GetOptions{})
	require.NoError(t, err)
	require.Contains(t, old.Annotations["autoscaling.alpha.kubernetes.io/behavior"], `"StabilizationWindowSeconds":7`)
	require.EqualValues(t, 2, old.Generation)

	old.Spec.MaxReplicas = 4
	_, err = v1.Update(ctx, old, metav1.UpdateOptions{})
	require.NoError(t, err)
	now, err := v2.Get(ctx, "web", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 3, now.Generation)
	require.EqualValues(t, 4, now.Spec.MaxReplicas)
	require.EqualValues(t, 7, *now.Spec.Behavior.ScaleUp.StabilizationWindowSeconds, "version 1 keeps what it has no fields for")
	require.NotContains(t, now.Annotations, "autoscaling.alpha.kubernetes.io/behavior")

	now.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: "True"}}
	_, err = v2.UpdateStatus(ctx, now, metav1.UpdateOptions{})
	require.NoError(t, err)
	old, err = v1.Get(ctx, "web", metav1.GetOptions{})
	require.NoError(t, err)
	delete(old.Annotations, "autoscaling.alpha.kubernetes.io/behavior")
	old.Status.CurrentReplicas = 2
	_, err = v1.UpdateStatus(ctx, old, metav1.UpdateOptions{})
	require.NoError(t, err)
	now, err = v2.Get(ctx, "web", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 3, now.Generation)
	require.NotNil(t, now.Spec.Behavior, "the status does not change the spec, which is in annotations too")
	require.EqualValues(t, 2, now.Status.CurrentReplicas)
	require.Len(t, now.Status.Conditions, 1)
}
