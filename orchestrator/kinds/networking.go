package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// networkingKinds are those of networking.k8s.io.
func networkingKinds() []*Kind {
	return []*Kind{ingressClassKind(), ingressKind(), networkPolicyKind()}
}

func networkPolicyKind() *Kind {
	return with(Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"), Resource: "networkpolicies", Singular: "networkpolicy",
		ShortNames: []string{"netpol"}, Namespaced: true, Place: "networkpolicies",
		New: func() Object { return &networkingv1.NetworkPolicy{} }, NewList: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]), ageColumn,
		},
	}, Rules[*networkingv1.NetworkPolicy]{
		Default:        defaultNetworkPolicy,
		Ratchets:       true,
		Validate:       func(o *networkingv1.NetworkPolicy) field.ErrorList { return validateNetworkPolicy(o, nil) },
		ValidateUpdate: validateNetworkPolicy, Warnings: networkPolicyWarnings,
		Spec: func(o *networkingv1.NetworkPolicy) any { return &o.Spec },
		Row: func(o *networkingv1.NetworkPolicy, now time.Time) []any {
			return []any{o.Name, metav1.FormatLabelSelector(&o.Spec.PodSelector), age(o, now)}
		},
	})
}

func defaultNetworkPolicy(o *networkingv1.NetworkPolicy) {
	for i := range o.Spec.Ingress {
		defaultPolicyPorts(o.Spec.Ingress[i].Ports)
	}
	for i := range o.Spec.Egress {
		defaultPolicyPorts(o.Spec.Egress[i].Ports)
	}
	if len(o.Spec.PolicyTypes) > 0 {
		return
	}
	o.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(o.Spec.Egress) > 0 {
		o.Spec.PolicyTypes = append(o.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		fill(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func ingressClassKind() *Kind {
	return with(Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("IngressClass"), Resource: "ingressclasses", Singular: "ingressclass",
		Place: "ingressclasses", New: func() Object { return &networkingv1.IngressClass{} },
		NewList:    func() runtime.Object { return &networkingv1.IngressClassList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Controller", "Controller that is responsible for handling this class"),
			textColumn("Parameters", "A reference to a resource with additional parameters"),
			ageColumn,
		},
	}, Rules[*networkingv1.IngressClass]{
		Default: func(o *networkingv1.IngressClass) {
			if o.Spec.Parameters != nil {
				fill(&o.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		},
		Validate: validateIngressClass, ValidateUpdate: validateIngressClassUpdate,
		Spec: func(o *networkingv1.IngressClass) any { return &o.Spec },
		Row: func(o *networkingv1.IngressClass, now time.Time) []any {
			name, parameters := o.Name, noCell
			if o.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
				name += " (default)"
			}
			if r := o.Spec.Parameters; r != nil {
				parameters = r.Kind
				if r.APIGroup != nil {
					parameters += "." + *r.APIGroup
				}
				parameters += "/" + r.Name
			}
			return []any{name, o.Spec.Controller, parameters, age(o, now)}
		},
	})
}

// oldIngressClass is the annotation that named the class before there was a field.
const oldIngressClass = "kubernetes.io/ingress.class"

func ingressKind() *Kind {
	return with(Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("Ingress"), Resource: "ingresses", Singular: "ingress",
		ShortNames: []string{"ing"}, Namespaced: true, Place: "ingress",
		New: func() Object { return &networkingv1.Ingress{} }, NewList: func() runtime.Object { return &networkingv1.IngressList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Class", "The name of the IngressClass resource that should be used for additional configuration"),
			textColumn("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
			textColumn("Address", "Address is a list containing ingress points for the load-balancer"),
			textColumn("Ports", "Ports of TLS configurations that open"),
			ageColumn,
		},
	}, Rules[*networkingv1.Ingress]{
		Ratchets:       true,
		Validate:       func(o *networkingv1.Ingress) field.ErrorList { return validateIngress(o, nil) },
		ValidateUpdate: validateIngress, ValidateStatus: validateIngressStatus,
		Warnings: func(o, old *networkingv1.Ingress) []string {
			if _, ok := o.Annotations[oldIngressClass]; ok && old == nil && o.Spec.IngressClassName == nil {
				return []string{`annotation "` + oldIngressClass + `" is deprecated, please use 'spec.ingressClassName' instead`}
			}
			return nil
		},
		Spec: func(o *networkingv1.Ingress) any { return &o.Spec }, Status: func(o *networkingv1.Ingress) any { return &o.Status },
		Row: func(o *networkingv1.Ingress, now time.Time) []any {
			ports := "80"
			if len(o.Spec.TLS) > 0 {
				ports = "80, 443"
			}
			return []any{o.Name, ptr.Deref(o.Spec.IngressClassName, noCell), hostsCell(o.Spec.Rules), ingressAddresses(o), ports, age(o, now)}
		},
	})
}

// hostsCell shows three hosts, and how many rules there are beyond three.
func hostsCell(rules []networkingv1.IngressRule) string {
	const shown = 3
	var hosts []string
	for i := range rules {
		switch {
		case len(hosts) == shown:
			return fmt.Sprintf("%s + %d more...", strings.Join(hosts, ","), len(rules)-shown)
		case rules[i].Host != "":
			hosts = append(hosts, rules[i].Host)
		}
	}
	return orText(strings.Join(hosts, ","), wildcard)
}

func ingressAddresses(o *networkingv1.Ingress) string {
	var l []string
	for i := range o.Status.LoadBalancer.Ingress {
		in := &o.Status.LoadBalancer.Ingress[i]
		if a := orText(in.IP, in.Hostname); a != "" {
			l = append(l, a)
		}
	}
	slices.Sort(l)
	return strings.Join(slices.Compact(l), ",")
}
