//go:build linux

package hardship

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// TestLoad: a Deployment whose pods use more of the processors than they should on average gets more of them, as far as it may,
// and fewer when the load is gone. What pods use is measured by the node, and collected for metrics.k8s.io.
func TestLoad(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	web := on("one", nodetest.Server("web"))
	web.Spec.RestartPolicy = corev1.RestartPolicyAlways
	web.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("30m")}
	_, err := cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: web.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web.Labels}, Spec: web.Spec},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	service, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: web.Labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	autoscalers := cluster.Client.AutoscalingV2().HorizontalPodAutoscalers(ns)
	_, err = autoscalers.Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, MaxReplicas: 3,
		Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32)}},
		Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(50))},
		}}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	becomes := func(replicas int32) *autoscalingv2.HorizontalPodAutoscaler {
		t.Helper()
		var a *autoscalingv2.HorizontalPodAutoscaler
		nodetest.Until(t, fmt.Sprintf("%d replicas", replicas), func() (bool, any) {
			if a, err = autoscalers.Get(t.Context(), "web", metav1.GetOptions{}); err != nil {
				return false, err
			}
			d, err := cluster.Client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
			return err == nil && a.Status.DesiredReplicas == replicas && d.Status.ReadyReplicas == replicas && d.Status.Replicas == replicas, fmt.Sprintf("%+v %v", a.Status, err)
		})
		return a
	}
	cluster.Started(t, ns, on("one", nodetest.Pod("load", "sh", "-c", "while true; do get http://"+service.Spec.ClusterIP+"/burn?for=300ms || true; sleep 0.1; done")))
	busy := becomes(3)
	require.Len(t, busy.Status.CurrentMetrics, 1)
	require.NotNil(t, busy.Status.CurrentMetrics[0].Resource.Current.AverageUtilization)
	cluster.Delete(t, ns, "load")
	becomes(1)
}
