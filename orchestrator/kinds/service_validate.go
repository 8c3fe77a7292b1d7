package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

const (
	onlyBalanced    = "may only be used when `type` is 'LoadBalancer'"
	notExternalName = "may not be set for ExternalName services"
	mayNotChange    = "may not change once set"
)

func validateService(o *corev1.Service) field.ErrorList { return serviceErrors(o, &corev1.Service{}) }

func validateServiceUpdate(o, old *corev1.Service) field.ErrorList {
	var p problems
	if hasClusterIP(o) && hasClusterIP(old) {
		p.clusterIPChange(o, old)
		p.ipFamilyChange(o, old)
	}
	if isBalanced(o) && isBalanced(old) && !ptr.Equal(o.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		p.invalid(field.NewPath("spec", "loadBalancerClass"), o.Spec.LoadBalancerClass, mayNotChange)
	}
	if hasHealthPort(o) && hasHealthPort(old) && o.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		p.forbidden(field.NewPath("spec", "healthCheckNodePort"), "field is immutable")
	}
	return append(p.list, serviceErrors(o, old)...)
}

// serviceErrors says what is wrong with a service, but for addresses that were as wrong in an old one.
func serviceErrors(o, old *corev1.Service) field.ErrorList {
	var p problems
	spec := field.NewPath("spec")
	p.topologyAnnotations(o.Annotations)
	p.serviceType(spec, o)
	p.servicePorts(spec.Child("ports"), o)
	if o.Spec.Selector != nil {
		p.labels(spec.Child("selector"), o.Spec.Selector)
	}
	p.affinity(spec, &o.Spec)
	if hasClusterIP(o) {
		p.clusterIPs(o, old.Spec.ClusterIPs)
	}
	for i, ip := range o.Spec.ExternalIPs {
		if at := spec.Child("externalIPs").Index(i); p.ipAddress(at, ip, old.Spec.ExternalIPs...) {
			p.endpointIP(at, ip)
		}
	}
	mustBeOneOf(&p, spec.Child("type"), o.Spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	p.portNumbers(spec.Child("ports"), o)
	p.sourceRanges(o, old)
	p.balancer(spec, &o.Spec)
	p.trafficPolicies(spec, o)
	return p.list
}

func (p *problems) topologyAnnotations(a map[string]string) {
	mode, has := a[corev1.AnnotationTopologyMode]
	if hints, had := a[corev1.DeprecatedAnnotationTopologyAwareHints]; has && had && mode != hints {
		p.invalid(field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))
	}
}

// serviceType checks what types demand.
func (p *problems) serviceType(spec *field.Path, o *corev1.Service) {
	s := &o.Spec
	if len(s.Ports) == 0 && !isHeadless(o) && hasClusterIP(o) {
		p.required(spec.Child("ports"), "")
	}
	if hasNodePorts(o) && isHeadless(o) {
		p.invalid(spec.Child("clusterIPs").Index(0), s.ClusterIPs[0], fmt.Sprintf("may not be set to 'None' for %s services", s.Type))
	}
	if hasClusterIP(o) {
		return
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"clusterIPs", len(s.ClusterIPs) > 0}, {"ipFamilies", len(s.IPFamilies) > 0}, {"ipFamilyPolicy", s.IPFamilyPolicy != nil}} {
		if f.set {
			p.forbidden(spec.Child(f.name), notExternalName)
		}
	}
	if name := strings.TrimSuffix(s.ExternalName, "."); p.have(spec.Child("externalName"), name) {
		p.subdomain(spec.Child("externalName"), name)
	}
}

func (p *problems) servicePorts(at *field.Path, o *corev1.Service) {
	names := map[string]bool{}
	for i := range o.Spec.Ports {
		port, at := &o.Spec.Ports[i], at.Index(i)
		switch {
		case port.Name != "":
			p.label(at.Child("name"), port.Name)
			unique(p, names, at.Child("name"), port.Name)
		case len(o.Spec.Ports) > 1:
			p.required(at.Child("name"), "")
		}
		p.each(at.Child("port"), port.Port, utilvalidation.IsValidPortNum(int(port.Port)))
		p.protocol(at.Child("protocol"), port.Protocol)
		p.portOrName(at.Child("targetPort"), port.TargetPort)
		if port.AppProtocol != nil {
			p.qualifiedName(at.Child("appProtocol"), *port.AppProtocol)
		}
	}
}

func (p *problems) portOrName(at *field.Path, port intstr.IntOrString) {
	if port.Type == intstr.String {
		p.each(at, port.StrVal, utilvalidation.IsValidPortName(port.StrVal))
		return
	}
	p.each(at, port.IntValue(), utilvalidation.IsValidPortNum(port.IntValue()))
}

// portNumbers checks that ports differ.
func (p *problems) portNumbers(at *field.Path, o *corev1.Service) {
	if o.Spec.Type == corev1.ServiceTypeClusterIP {
		for i, port := range o.Spec.Ports {
			if port.NodePort != 0 {
				p.forbidden(at.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'")
			}
		}
	}
	seen := map[corev1.ServicePort]bool{}
	for i, port := range o.Spec.Ports {
		key := corev1.ServicePort{Protocol: port.Protocol, NodePort: port.NodePort}
		if port.NodePort != 0 && seen[key] {
			p.duplicate(at.Index(i).Child("nodePort"), port.NodePort)
		}
		seen[key] = true
	}
	clear(seen)
	for i, port := range o.Spec.Ports {
		unique(p, seen, at.Index(i), corev1.ServicePort{Protocol: port.Protocol, Port: port.Port})
	}
}

func (p *problems) affinity(spec *field.Path, s *corev1.ServiceSpec) {
	mustBeOneOf(p, spec.Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at, c := spec.Child("sessionAffinityConfig"), s.SessionAffinityConfig
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if c != nil {
			p.forbidden(at, "must not be set when session affinity is None")
		}
	case corev1.ServiceAffinityClientIP:
		const when = "when session affinity type is ClientIP"
		switch {
		case c == nil:
			p.required(at, when)
		case c.ClientIP == nil:
			p.required(at.Child("clientIP"), when)
		case c.ClientIP.TimeoutSeconds == nil:
			p.required(at.Child("clientIP", "timeoutSeconds"), when)
		case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > maxAffinitySeconds:
			p.invalid(at.Child("clientIP", "timeoutSeconds"), c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds))
		}
	}
}

// maxAffinitySeconds is a day.
const maxAffinitySeconds = 86400

// clusterIPs checks cluster IPs and IP families; known are addresses that may stay.
func (p *problems) clusterIPs(o *corev1.Service, known []string) {
	s, at, families := &o.Spec, field.NewPath("spec", "clusterIPs"), field.NewPath("spec", "ipFamilies")
	switch {
	case s.ClusterIP == "" && len(s.ClusterIPs) != 0:
		p.invalid(at, s.ClusterIPs, "must be empty when `clusterIP` is not specified")
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		p.required(at, "")
	case s.ClusterIP != "" && s.ClusterIPs[0] != s.ClusterIP:
		p.invalid(at, s.ClusterIPs, "first value must match `clusterIP`")
	}
	seen := map[corev1.IPFamily]bool{}
	for i, f := range s.IPFamilies {
		oneOf(p, families.Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)
		unique(p, seen, families.Index(i), f)
	}
	if s.IPFamilyPolicy != nil {
		oneOf(p, field.NewPath("spec", "ipFamilyPolicy"), *s.IPFamilyPolicy,
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	}
	good := true
	for i, ip := range s.ClusterIPs {
		switch {
		case i != 0 || ip != corev1.ClusterIPNone:
			good = p.ipAddress(at.Index(i), ip, known...) && good
		case len(s.ClusterIPs) > 1:
			good = false
			p.invalid(at, s.ClusterIPs, "'None' must be the first and only value")
		}
	}
	if len(s.ClusterIPs) > 2 {
		p.invalid(at, s.ClusterIPs, "may only hold up to 2 values")
	}
	if good {
		p.stacks(at, o)
	}
}

// stacks checks that addresses are of different families, and of those that are wanted.
func (p *problems) stacks(at *field.Path, o *corev1.Service) {
	ips := o.Spec.ClusterIPs
	if len(ips) > 1 {
		both, err := netutils.IsDualStackIPStrings(ips)
		if err != nil {
			p.add(field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%w", err)))
		}
		if !both {
			p.invalid(at, ips, "may specify no more than one IP for each IP family")
		}
	}
	if isHeadless(o) {
		return
	}
	for i := range min(len(ips), len(o.Spec.IPFamilies)) {
		family, is := o.Spec.IPFamilies[i], corev1.IPv4Protocol
		if netutils.IsIPv6String(ips[i]) {
			is = corev1.IPv6Protocol
		}
		if family != is && (family == corev1.IPv4Protocol || family == corev1.IPv6Protocol) {
			p.invalid(at.Index(i), ips[i], fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", family, i))
		}
	}
}

// clusterIPChange lets a service gain or lose its second address only.
func (p *problems) clusterIPChange(o, old *corev1.Service) {
	if isHeadless(o) && isHeadless(old) {
		return
	}
	is, was, at := o.Spec.ClusterIPs, old.Spec.ClusterIPs, field.NewPath("spec", "clusterIPs")
	if len(is) == len(was) {
		for i := range was {
			if is[i] != was[i] {
				p.invalid(at.Index(i), is, mayNotChange)
			}
		}
		return
	}
	if len(is) == 0 {
		p.invalid(at.Index(0), is, "primary clusterIP can not be unset")
	}
	if len(is) > 0 && len(was) > 0 && is[0] != was[0] {
		p.invalid(at.Index(0), is, mayNotChange)
	}
	if len(is) == 1 && len(was) > 1 {
		p.singleStack(o, "must be set to 'SingleStack' when releasing the secondary clusterIP")
	}
}

func (p *problems) singleStack(o *corev1.Service, detail string) {
	if ptr.Deref(o.Spec.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		p.invalid(field.NewPath("spec", "ipFamilyPolicy"), o.Spec.IPFamilyPolicy, detail)
	}
}

// ipFamilyChange lets a service gain or lose its second family only.
func (p *problems) ipFamilyChange(o, old *corev1.Service) {
	if isHeadless(o) || isHeadless(old) {
		return
	}
	is, was, at := o.Spec.IPFamilies, old.Spec.IPFamilies, field.NewPath("spec", "ipFamilies").Index(0)
	if len(is) == len(was) {
		for i := range was {
			if is[i] != was[i] {
				p.invalid(at, is, mayNotChange)
			}
		}
		return
	}
	if len(is) < len(was) && len(o.Spec.ClusterIPs) == 0 {
		p.invalid(at, is, "primary ipFamily can not be unset")
	}
	if len(is) > 0 && len(was) > 0 && is[0] != was[0] {
		p.invalid(at, o.Spec.ClusterIPs, mayNotChange)
	}
	if len(is) == 1 && len(was) > 1 {
		p.singleStack(o, "must be set to 'SingleStack' when releasing the secondary ipFamily")
	}
}

// sourceRanges checks from where a load balancer takes traffic, which is in the spec or in an annotation.
func (p *problems) sourceRanges(o, old *corev1.Service) {
	at := field.NewPath("spec", "LoadBalancerSourceRanges") // as Kubernetes spells it
	note, noted := o.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	ranges := len(o.Spec.LoadBalancerSourceRanges) > 0
	if !ranges && noted {
		at = field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	}
	if (ranges || noted) && !isBalanced(o) {
		p.forbidden(at, onlyBalanced)
	}
	if ranges {
		var known []string
		for _, r := range old.Spec.LoadBalancerSourceRanges {
			known = append(known, strings.TrimSpace(r))
		}
		for i, r := range o.Spec.LoadBalancerSourceRanges {
			p.add(utilvalidation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(r), true, known)...)
		}
		return
	}
	if was, had := old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; had && was == note || strings.TrimSpace(note) == "" {
		return
	}
	for r := range strings.SplitSeq(strings.TrimSpace(note), ",") {
		p.add(utilvalidation.IsValidCIDRForLegacyField(at, strings.TrimSpace(r), true, nil)...)
	}
}

// balancer checks what only services with a load balancer have.
func (p *problems) balancer(spec *field.Path, s *corev1.ServiceSpec) {
	balanced := s.Type == corev1.ServiceTypeLoadBalancer
	switch {
	case balanced && s.AllocateLoadBalancerNodePorts == nil:
		p.required(field.NewPath("allocateLoadBalancerNodePorts"), "")
	case !balanced && s.AllocateLoadBalancerNodePorts != nil:
		p.forbidden(spec.Child("allocateLoadBalancerNodePorts"), onlyBalanced)
	}
	switch {
	case s.LoadBalancerClass == nil:
	case balanced:
		p.qualifiedName(spec.Child("loadBalancerClass"), *s.LoadBalancerClass)
	default:
		p.forbidden(spec.Child("loadBalancerClass"), onlyBalanced)
	}
}

func (p *problems) trafficPolicies(spec *field.Path, o *corev1.Service) {
	s, at := &o.Spec, spec.Child("externalTrafficPolicy")
	switch {
	case external(o):
		mustBeOneOf(p, at, s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	case s.ExternalTrafficPolicy != "":
		p.invalid(at, s.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	switch at := spec.Child("healthCheckNodePort"); {
	case !hasHealthPort(o):
		if s.HealthCheckNodePort != 0 {
			p.invalid(at, s.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
		}
	case s.HealthCheckNodePort == 0:
		p.required(at, "")
	default:
		p.each(at, s.HealthCheckNodePort, utilvalidation.IsValidPortNum(int(s.HealthCheckNodePort)))
	}
	switch at := spec.Child("internalTrafficPolicy"); {
	case s.InternalTrafficPolicy != nil:
		oneOf(p, at, *s.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	case hasNodePorts(o) || s.Type == corev1.ServiceTypeClusterIP:
		p.required(at, "")
	}
	if d := s.TrafficDistribution; d != nil {
		oneOf(p, spec.Child("trafficDistribution"), *d,
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	}
}

func validateServiceStatus(o, old *corev1.Service) field.ErrorList {
	var p problems
	at := field.NewPath("status", "loadBalancer", "ingress")
	if !isBalanced(o) && len(o.Status.LoadBalancer.Ingress) > 0 {
		p.forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")
		return p.list
	}
	var known []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		known = append(known, in.IP)
	}
	for i, in := range o.Status.LoadBalancer.Ingress {
		at := at.Index(i)
		if in.IP != "" {
			p.ipAddress(at.Child("ip"), in.IP, known...)
		}
		switch {
		case in.IPMode == nil && in.IP != "":
			p.required(at.Child("ipMode"), "must be specified when `ip` is set")
		case in.IPMode != nil && in.IP == "":
			p.forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set")
		case in.IPMode != nil:
			oneOf(&p, at.Child("ipMode"), *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)
		}
		if in.Hostname != "" {
			p.subdomain(at.Child("hostname"), in.Hostname)
			if netutils.ParseIPSloppy(in.Hostname) != nil {
				p.invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
	return p.list
}

func warnOfService(o, _ *corev1.Service) (warnings []string) {
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	addresses := func(name string, ips []string) {
		for i, ip := range ips {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(field.NewPath("spec", name).Index(i), ip)...)
		}
	}
	s := &o.Spec
	if _, ok := o.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		warn("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode)
	}
	if s.ClusterIP != "" && s.ClusterIP != corev1.ClusterIPNone {
		addresses("clusterIPs", s.ClusterIPs)
	}
	if isHeadless(o) {
		if s.LoadBalancerIP != "" {
			warn("spec.loadBalancerIP is ignored for headless services")
		}
		if len(s.ExternalIPs) > 0 {
			warn("spec.externalIPs is ignored for headless services")
		}
		if s.SessionAffinity != corev1.ServiceAffinityNone {
			warn("spec.SessionAffinity is ignored for headless services")
		}
	}
	addresses("externalIPs", s.ExternalIPs)
	if len(s.ExternalIPs) > 0 && !isHeadless(o) && hasClusterIP(o) {
		warn("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if s.LoadBalancerIP != "" {
		warnings = append(warnings, utilvalidation.GetWarningsForIP(field.NewPath("spec", "loadBalancerIP"), s.LoadBalancerIP)...)
	}
	for i, c := range s.LoadBalancerSourceRanges {
		warnings = append(warnings, utilvalidation.GetWarningsForCIDR(field.NewPath("spec", "loadBalancerSourceRanges").Index(i), strings.TrimSpace(c))...)
	}
	if !hasClusterIP(o) && len(s.ExternalIPs) > 0 {
		warn("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName)
	}
	if hasClusterIP(o) && s.ExternalName != "" {
		warn("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName)
	}
	if ptr.Deref(s.TrafficDistribution, "") == corev1.ServiceTrafficDistributionPreferClose {
		warn("spec.trafficDistribution: %q is deprecated; use %q", corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone)
	}
	return warnings
}
