package network

import (
	"fmt"
	"testing"

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
	conformance.Operations[*networkingv1.Ingress]{
		Resource: networkingv1.SchemeGroupVersion.WithResource("ingresses"), Kind: "Ingress", Namespaced: true,
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
		Status: func(x *networkingv1.Ingress) {
			metav1.SetMetaDataAnnotation(&x.ObjectMeta, "changedstatus", "true")
			x.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "169.1.1.1"}}
		},
		StatusPatches: []conformance.Patch{{Type: types.MergePatchType,
			Data: `{"metadata":{"annotations":{"changedstatus":"true"}},"status":{"loadBalancer":{"ingress":[{"ip":"169.1.1.1"}]}}}`}},
	}.Run(t, e)
}

func ingressClassOperations(t *testing.T, e *conformance.Env) {
	conformance.Operations[*networkingv1.IngressClass]{
		Resource: networkingv1.SchemeGroupVersion.WithResource("ingressclasses"), Kind: "IngressClass",
		Make: func(int) *networkingv1.IngressClass {
			return &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: "example.com/controller"}}
		},
	}.Run(t, e)
}
