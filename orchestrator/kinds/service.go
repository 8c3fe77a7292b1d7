package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func serviceKind() *Kind {
	doc := corev1.ServiceSpec{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Service"), Resource: "services", Singular: "service", ShortNames: []string{"svc"},
		Categories: []string{"all"}, Namespaced: true, Place: "services/specs",
		New: func() Object { return &corev1.Service{} }, NewList: func() runtime.Object { return &corev1.ServiceList{} },
		NameErrors: validation.NameIsDNSLabel, Lifecycle: Lifecycle{Unconditional: true, CreateOnUpdate: true, ReturnDeleted: true},
		Subresources: []Subresource{{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("ServiceProxyOptions"), Verbs: connectVerbs()}},
		FieldNames:   []string{"spec.clusterIP", "spec.type"},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Type", doc["type"]), textColumn("Cluster-IP", doc["clusterIP"]), textColumn("External-IP", doc["externalIPs"]),
			textColumn("Port(s)", doc["ports"]), ageColumn, wideColumn("Selector", doc["selector"]),
		},
	}, Rules[*corev1.Service]{
		Default: defaultService, Validate: validateService, ValidateUpdate: validateServiceUpdate, ValidateStatus: validateServiceStatus, Ratchets: true,
		Warnings: warnOfService,
		Create: func(o *corev1.Service) {
			if o.Spec.ClusterIP != "" && len(o.Spec.ClusterIPs) == 0 {
				o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
			}
		},
		Update: updateService,
		Spec:   func(o *corev1.Service) any { return &o.Spec },
		Status: func(o *corev1.Service) any { return &o.Status },
		Fields: func(o *corev1.Service) map[string]string {
			return map[string]string{"spec.clusterIP": o.Spec.ClusterIP, "spec.type": string(o.Spec.Type)}
		},
		Row: serviceRow,
	})
}

// external says that a service can be reached from outside the cluster.
func external(o *corev1.Service) bool {
	return hasNodePorts(o) || o.Spec.Type == corev1.ServiceTypeClusterIP && len(o.Spec.ExternalIPs) > 0
}

func hasNodePorts(o *corev1.Service) bool {
	return o.Spec.Type == corev1.ServiceTypeNodePort || isBalanced(o)
}

// getsNodePorts says that node ports are allocated for a service.
func getsNodePorts(o *corev1.Service) bool {
	return o.Spec.Type == corev1.ServiceTypeNodePort || isBalanced(o) && ptr.Deref(o.Spec.AllocateLoadBalancerNodePorts, true)
}

func isBalanced(o *corev1.Service) bool { return o.Spec.Type == corev1.ServiceTypeLoadBalancer }

// hasHealthPort says that a service has a port that tells load balancers whether a node has endpoints.
func hasHealthPort(o *corev1.Service) bool {
	return isBalanced(o) && o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func hasClusterIP(o *corev1.Service) bool { return o.Spec.Type != corev1.ServiceTypeExternalName }

func isHeadless(o *corev1.Service) bool {
	return slices.Equal(o.Spec.ClusterIPs, []string{corev1.ClusterIPNone})
}

func defaultService(o *corev1.Service) {
	s := &o.Spec
	s.SessionAffinity = corev1.ServiceAffinity(orText(string(s.SessionAffinity), string(corev1.ServiceAffinityNone)))
	s.Type = corev1.ServiceType(orText(string(s.Type), string(corev1.ServiceTypeClusterIP)))
	switch c := s.SessionAffinityConfig; {
	case s.SessionAffinity == corev1.ServiceAffinityNone:
		s.SessionAffinityConfig = nil
	case s.SessionAffinity == corev1.ServiceAffinityClientIP && (c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil):
		s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(corev1.DefaultClientIPServiceAffinitySeconds)}}
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		p.Protocol = corev1.Protocol(orText(string(p.Protocol), string(corev1.ProtocolTCP)))
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if external(o) && s.ExternalTrafficPolicy == "" {
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if s.InternalTrafficPolicy == nil && (hasNodePorts(o) || s.Type == corev1.ServiceTypeClusterIP) {
		s.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if !isBalanced(o) {
		return
	}
	if s.AllocateLoadBalancerNodePorts == nil {
		s.AllocateLoadBalancerNodePorts = ptr.To(true)
	}
	for i := range o.Status.LoadBalancer.Ingress {
		if in := &o.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
			in.IPMode = ptr.To(corev1.LoadBalancerIPModeVIP)
		}
	}
}

// updateService carries over what was allocated and left out of the request, and drops what a new type has no use for
// unless the request changed it, too.
func updateService(o, old *corev1.Service) {
	keepClusterIPs(o, old)
	if getsNodePorts(o) && getsNodePorts(old) {
		keepNodePorts(o, old)
	}
	if hasHealthPort(o) && hasHealthPort(old) && o.Spec.HealthCheckNodePort == 0 {
		o.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
	dropClusterIPs(o, old)
	dropOfType(o, old)
}

// keepClusterIPs carries over the cluster IPs, and keeps the single address and the list of them the same where a request
// knows only one of the two.
func keepClusterIPs(o, old *corev1.Service) {
	s, was := &o.Spec, &old.Spec
	if hasClusterIP(o) && hasClusterIP(old) {
		if s.ClusterIP == "" {
			s.ClusterIP = was.ClusterIP
		}
		if len(s.ClusterIPs) == 0 {
			s.ClusterIPs = slices.Clone(was.ClusterIPs)
		}
	}
	switch {
	case s.ClusterIP == was.ClusterIP:
		if len(s.ClusterIPs) == 0 {
			s.ClusterIPs = slices.Clone(was.ClusterIPs)
		}
	case !slices.Equal(s.ClusterIPs, was.ClusterIPs):
	case s.ClusterIP == "":
		s.ClusterIPs = nil
	default:
		s.ClusterIPs = []string{s.ClusterIP}
	}
}

// keepNodePorts carries over the node ports of ports by their names, but for those that another port has now.
func keepNodePorts(o, old *corev1.Service) {
	was, used, taken := map[string]int32{}, map[int32]bool{}, map[int32]bool{}
	for _, p := range old.Spec.Ports {
		was[p.Name], used[p.NodePort] = p.NodePort, true
	}
	for _, p := range o.Spec.Ports {
		taken[p.NodePort] = used[p.NodePort]
	}
	for i := range o.Spec.Ports {
		if p := &o.Spec.Ports[i]; p.NodePort == 0 && !taken[was[p.Name]] {
			p.NodePort = was[p.Name]
		}
	}
}

func dropClusterIPs(o, old *corev1.Service) {
	s, was := &o.Spec, &old.Spec
	if !hasClusterIP(old) || hasClusterIP(o) {
		return
	}
	if s.ClusterIP == was.ClusterIP && slices.Equal(s.ClusterIPs, was.ClusterIPs) {
		s.ClusterIP, s.ClusterIPs = "", nil
	}
	if slices.Equal(s.IPFamilies, was.IPFamilies) {
		s.IPFamilies = nil
	}
	if ptr.Deref(s.IPFamilyPolicy, "") == ptr.Deref(was.IPFamilyPolicy, "") {
		s.IPFamilyPolicy = nil
	}
}

func dropOfType(o, old *corev1.Service) {
	s, was := &o.Spec, &old.Spec
	if hasNodePorts(old) && !hasNodePorts(o) && !addsNodePorts(o, old) {
		for i := range s.Ports {
			s.Ports[i].NodePort = 0
		}
	}
	if hasHealthPort(old) && !hasHealthPort(o) && s.HealthCheckNodePort == was.HealthCheckNodePort {
		s.HealthCheckNodePort = 0
	}
	if isBalanced(old) && !isBalanced(o) {
		if a, b := s.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts; a != nil && b != nil && *a == *b {
			s.AllocateLoadBalancerNodePorts = nil
		}
		if ptr.Equal(s.LoadBalancerClass, was.LoadBalancerClass) {
			s.LoadBalancerClass = nil
		}
	}
	if external(old) && !external(o) && s.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		s.ExternalTrafficPolicy = ""
	}
	if !isBalanced(o) {
		o.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

func addsNodePorts(o, old *corev1.Service) bool {
	was := map[int32]bool{0: true}
	for _, p := range old.Spec.Ports {
		was[p.NodePort] = true
	}
	return slices.ContainsFunc(o.Spec.Ports, func(p corev1.ServicePort) bool { return !was[p.NodePort] })
}

func serviceRow(o *corev1.Service, now time.Time) []any {
	address := "<none>"
	if len(o.Spec.ClusterIPs) > 0 {
		address = o.Spec.ClusterIPs[0]
	}
	ports := make([]string, len(o.Spec.Ports))
	for i, p := range o.Spec.Ports {
		ports[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			ports[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return []any{
		o.Name, string(o.Spec.Type), address, externalAddresses(o), orText(strings.Join(ports, ","), "<none>"), age(o, now),
		labels.FormatLabels(o.Spec.Selector),
	}
}

// externalAddresses are those under which a service is known outside.
func externalAddresses(o *corev1.Service) string {
	outside := o.Spec.ExternalIPs
	switch o.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orText(strings.Join(outside, ","), "<none>")
	case corev1.ServiceTypeLoadBalancer:
		set := map[string]bool{}
		for _, in := range o.Status.LoadBalancer.Ingress {
			if a := orText(in.IP, in.Hostname); a != "" {
				set[a] = true
			}
		}
		return orText(strings.Join(append(slices.Sorted(maps.Keys(set)), outside...), ","), "<pending>")
	case corev1.ServiceTypeExternalName:
		return o.Spec.ExternalName
	}
	return "<unknown>"
}
