package network

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func services() conformance.Behaviours {
	return conformance.Behaviours{
		"Services should complete a service status lifecycle":        serviceStatus,
		"Services should delete a collection of services":            serviceCollection,
		"Services should find a service from listing all namespaces": serviceFound,
	}
}

func serviceFound(t *testing.T, e *conformance.Env) {
	l, err := e.Client.CoreV1().Services("").List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, s := range l.Items {
		if s.Namespace == "default" && s.Name == "kubernetes" {
			return
		}
	}
	require.Fail(t, "default/kubernetes is not there")
}

func serviceStatus(t *testing.T, e *conformance.Env) {
	svcs := e.Client.CoreV1().Services(e.NS)
	selector := metav1.ListOptions{LabelSelector: "static=" + e.NS}
	before, err := svcs.List(e.Ctx, selector)
	require.NoError(t, err)
	selector.ResourceVersion = before.ResourceVersion
	w := conformance.Observe[*corev1.Service](t, e, svcs.Watch, selector)
	s := service("svc", nil, corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(80)})
	s.Labels = map[string]string{"static": e.NS}
	s.Spec.Type, s.Spec.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, ptr.To("example.com/internal-vip")
	create(t, e, svcs, s)
	w.Next(watch.Added)
	got, err := e.Dynamic(t).Resource(corev1.SchemeGroupVersion.WithResource("services")).Namespace(e.NS).Get(e.Ctx, "svc", metav1.GetOptions{}, "status")
	require.NoError(t, err)
	require.Contains(t, got.Object, "status")

	patched, err := svcs.Patch(e.Ctx, "svc", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.Equal(t, "203.0.113.1", patched.Status.LoadBalancer.Ingress[0].IP)
	w.Until(watch.Modified, "the patched status", func(s *corev1.Service) bool {
		return s.Annotations["patchedstatus"] == "true" && len(s.Status.LoadBalancer.Ingress) == 1
	})
	c := metav1.Condition{Type: "StatusUpdate", Status: metav1.ConditionTrue, Reason: "Test", Message: "set by the test"}
	conformance.UpdateStatus(t, e, svcs, "svc", func(s *corev1.Service) { s.Status.Conditions = append(s.Status.Conditions, c) })
	w.Until(watch.Modified, "the updated status", func(s *corev1.Service) bool {
		return len(s.Status.Conditions) == 1 && s.Status.Conditions[0] == c && s.Annotations["patchedstatus"] == "true"
	})
	_, err = svcs.Patch(e.Ctx, "svc", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	w.Until(watch.Modified, "the patched service", func(s *corev1.Service) bool { return s.Labels["stage"] == "patched" })
	require.NoError(t, svcs.Delete(e.Ctx, "svc", metav1.DeleteOptions{}))
	w.Until(watch.Deleted, "the service", nil)
}

func serviceCollection(t *testing.T, e *conformance.Env) {
	svcs := e.Client.CoreV1().Services(e.NS)
	for i, name := range []string{"a", "b", "c"} {
		s := service(name, nil, corev1.ServicePort{Name: "http", Protocol: corev1.ProtocolTCP, Port: int32(8001 + i), TargetPort: intstr.FromInt32(int32(8001 + i))})
		s.Labels = map[string]string{"fate": map[bool]string{true: "delete", false: "keep"}[i < 2]}
		create(t, e, svcs, s)
	}
	left := func() (names []string) {
		l, err := svcs.List(e.Ctx, metav1.ListOptions{})
		require.NoError(t, err)
		for _, s := range l.Items {
			names = append(names, s.Name)
		}
		return names
	}
	require.ElementsMatch(t, []string{"a", "b", "c"}, left())
	require.NoError(t, e.Dynamic(t).Resource(corev1.SchemeGroupVersion.WithResource("services")).Namespace(e.NS).
		DeleteCollection(e.Ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "fate=delete"}))
	require.Equal(t, []string{"c"}, left())
}
