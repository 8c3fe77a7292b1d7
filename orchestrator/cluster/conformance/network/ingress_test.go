package network

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func ingresses() conformance.Behaviours {
	return conformance.Behaviours{
		"Ingress API should support creating Ingress API operations":           ingressOperations,
		"IngressClass API should support creating IngressClass API operations": ingressClassOperations,
	}
}

func ingressOperations(t *testing.T, e *conformance.Env) {
	mine := e.Client.NetworkingV1().Ingresses(e.NS)
	conformance.Operations[*networkingv1.Ingress, *networkingv1.IngressList]{
		Resource: networkingv1.SchemeGroupVersion.WithResource("ingresses"), Kind: "Ingress", Client: mine, Everywhere: e.Client.NetworkingV1().Ingresses(""),
		Make: func(i int) *networkingv1.Ingress {
			backend := &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
				Name: fmt.Sprintf("backend-%d", i), Port: networkingv1.ServiceBackendPort{Number: 80},
			}}
			return &networkingv1.Ingress{Spec: networkingv1.IngressSpec{DefaultBackend: backend, Rules: []networkingv1.IngressRule{{
				Host: "foo.bar.com", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
					Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: ptr.To(networkingv1.PathTypePrefix), Backend: *backend}},
				}},
			}}}}
		},
	}.Run(t, e, func(x *networkingv1.Ingress) {
		status := func(ip string) networkingv1.IngressLoadBalancerStatus {
			return networkingv1.IngressLoadBalancerStatus{Ingress: []networkingv1.IngressLoadBalancerIngress{{IP: ip}}}
		}
		p, err := mine.Patch(e.Ctx, x.Name, types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"loadBalancer":{"ingress":[{"ip":"169.1.1.1"}]}}}`), metav1.PatchOptions{}, "status")
		require.NoError(t, err)
		require.Equal(t, status("169.1.1.1"), p.Status.LoadBalancer)
		require.Equal(t, "true", p.Annotations["patchedstatus"])
		u := conformance.UpdateStatus(t, e, mine, x.Name, func(x *networkingv1.Ingress) { x.Status.LoadBalancer = status("169.1.1.2") })
		require.Equal(t, status("169.1.1.2"), u.Status.LoadBalancer)
		got, err := e.Dynamic(t).Resource(networkingv1.SchemeGroupVersion.WithResource("ingresses")).Namespace(e.NS).Get(e.Ctx, x.Name, metav1.GetOptions{}, "status")
		require.NoError(t, err)
		require.Equal(t, x.UID, got.GetUID())
	})
}

func ingressClassOperations(t *testing.T, e *conformance.Env) {
	conformance.Operations[*networkingv1.IngressClass, *networkingv1.IngressClassList]{
		Resource: networkingv1.SchemeGroupVersion.WithResource("ingressclasses"), Kind: "IngressClass", Client: e.Client.NetworkingV1().IngressClasses(),
		Make: func(int) *networkingv1.IngressClass {
			return &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: "example.com/controller"}}
		},
	}.Run(t, e, nil)
}
