package kinds

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// hostNetworkPorts checks that what listens on the host's network does so on the ports that it says.
func (p *podCheck) hostNetworkPorts(at *field.Path) {
	if !p.spec.HostNetwork {
		return
	}
	for i := range p.spec.Containers {
		for j, port := range p.spec.Containers[i].Ports {
			if (p.meta != nil || port.HostPort != 0) && port.HostPort != port.ContainerPort {
				p.invalid(at.Index(i).Child("ports").Index(j).Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

// userNamespace checks what a pod may not share with its host if it has users of its own.
func (p *podCheck) userNamespace(spec *field.Path) {
	if p.hostUsers() {
		return
	}
	const alone = "when `hostUsers` is false"
	for _, f := range []struct {
		name string
		set  bool
	}{{"hostNetwork", p.spec.HostNetwork}, {"HostPID", p.spec.HostPID}, {"HostIPC", p.spec.HostIPC}} {
		if f.set {
			p.forbidden(spec.Child(f.name), alone)
		}
	}
	containersAt(p.spec, spec, func(c *corev1.Container, at *field.Path) {
		if len(c.VolumeDevices) > 0 {
			p.forbidden(at.Child("volumeDevices"), alone)
		}
	})
}

const maxHostname = 64

// hostNames checks what a pod calls itself.
func (p *podCheck) hostNames(spec *field.Path) {
	name := p.spec.HostnameOverride
	if name == nil {
		return
	}
	at := spec.Child("hostnameOverride")
	if q := p.spec.SetHostnameAsFQDN; q != nil && *q {
		p.forbidden(at, "may not be specified when setHostnameAsFQDN is true")
	}
	if p.spec.HostNetwork {
		p.forbidden(at, "may not be specified when hostNetwork is true")
	}
	if len(*name) > maxHostname {
		p.add(field.TooLong(at, "", maxHostname))
	}
	p.subdomain(at, *name)
}

const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// dns checks how a pod finds others.
func (p *podCheck) dns(at *field.Path) {
	c, alone := p.spec.DNSConfig, p.spec.DNSPolicy == corev1.DNSNone
	switch {
	case alone && c == nil:
		p.required(at, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))
		return
	case c == nil:
		return
	case alone && len(c.Nameservers) == 0:
		p.required(at.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))
		return
	}
	if len(c.Nameservers) > maxNameservers {
		p.invalid(at.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers))
	}
	for i, s := range c.Nameservers {
		p.ipAddress(at.Child("nameservers").Index(i), s)
	}
	searches := at.Child("searches")
	if len(c.Searches) > maxSearches {
		p.invalid(searches, c.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchChars {
		p.invalid(searches, c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars))
	}
	for i, s := range c.Searches {
		if s != "." {
			s = strings.TrimSuffix(s, ".")
			p.each(searches.Index(i), s, utilvalidation.IsDNS1123SubdomainWithUnderscore(s))
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			p.required(at.Child("options").Index(i), "must not be empty")
		}
	}
}

// names checks names that a pod has or refers to.
func (p *podCheck) names(spec *field.Path) {
	s := p.spec
	if s.ServiceAccountName != "" {
		p.name(spec.Child("serviceAccountName"), s.ServiceAccountName)
	}
	if old := s.DeprecatedServiceAccount; old != s.ServiceAccountName {
		p.invalid(spec.Child("deprecatedServiceAccount"), old, fmt.Sprintf("must be the same as serviceAccountName: %q", s.ServiceAccountName))
	}
	if s.NodeName != "" {
		p.name(spec.Child("nodeName"), s.NodeName)
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		p.invalid(spec.Child("activeDeadlineSeconds"), *d, utilvalidation.InclusiveRangeError(1, math.MaxInt32))
	}
	if s.Hostname != "" {
		p.label(spec.Child("hostname"), s.Hostname)
	}
	if s.Subdomain != "" {
		p.label(spec.Child("subdomain"), s.Subdomain)
	}
	p.tolerations(spec.Child("tolerations"), s.Tolerations)
	for i, a := range s.HostAliases {
		at := spec.Child("hostAliases").Index(i)
		p.ipAddress(at.Child("ip"), a.IP)
		for j, n := range a.Hostnames {
			p.subdomain(at.Child("hostnames").Index(j), n)
		}
	}
	if s.PriorityClassName != "" {
		p.name(spec.Child("priorityClassName"), s.PriorityClassName)
	}
	if s.RuntimeClassName != nil {
		p.name(spec.Child("runtimeClassName"), *s.RuntimeClassName)
	}
	if s.PreemptionPolicy != nil {
		mustBeOneOf(&p.problems, spec.Child("preemptionPolicy"), *s.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
}

// podSpec checks what pods and pod templates have in common.
func (p *podCheck) podSpec(at *field.Path) {
	s := p.spec
	if s.TerminationGracePeriodSeconds == nil {
		p.required(at.Child("terminationGracePeriodSeconds"), "")
	}
	p.podVolumes(at.Child("volumes"))
	p.resourceClaims(at.Child("resourceClaims"))
	p.containers(at.Child("containers"))
	p.initContainers(at.Child("initContainers"))
	p.ephemeralContainers(at.Child("ephemeralContainers"))
	p.podResources(at)
	p.hostNetworkPorts(at.Child("containers"))
	mustBeOneOf(&p.problems, at.Child("restartPolicy"), s.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	mustBeOneOf(&p.problems, at.Child("dnsPolicy"), s.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	p.labels(at.Child("nodeSelector"), s.NodeSelector)
	p.podSecurity(at.Child("securityContext"))
	if v := s.ShareProcessNamespace; v != nil && *v && s.HostPID {
		p.invalid(at.Child("shareProcessNamespace"), *v, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	p.podAffinities(at.Child("affinity"))
	p.dns(at.Child("dnsConfig"))
	for i, g := range s.ReadinessGates {
		p.qualifiedName(at.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType))
	}
	p.gates(at.Child("schedulingGates"))
	p.spread(at.Child("topologySpreadConstraints"))
	p.hostProcesses(at)
	p.userNamespace(at)
	p.hostNames(at)
	p.names(at)
	p.overhead(at.Child("overhead"))
	p.podOS(at)
	p.fileEnv(at)
}

// containerNames are the names of all containers of a pod.
func containerNames(s *corev1.PodSpec) sets.Set[string] {
	names := sets.Set[string]{}
	containersOf(s, func(c *corev1.Container) { names.Insert(c.Name) })
	return names
}
