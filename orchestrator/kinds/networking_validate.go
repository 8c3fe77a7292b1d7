package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

const maxIngressController = 250

// policyCheck checks a NetworkPolicy. What was there before may stay: bad values of labels, and ranges of addresses.
type policyCheck struct {
	problems
	options metav1validation.LabelSelectorValidationOptions
	known   []string
}

func validateNetworkPolicy(o, old *networkingv1.NetworkPolicy) field.ErrorList {
	var c policyCheck
	if old != nil {
		c.options.AllowInvalidLabelValueInSelector = metav1validation.LabelSelectorHasInvalidLabelValue(&old.Spec.PodSelector)
		blocks(old, func(b *networkingv1.IPBlock, _ *field.Path) { c.known = append(append(c.known, b.CIDR), b.Except...) })
	}
	s, at := &o.Spec, field.NewPath("spec")
	c.add(metav1validation.ValidateLabelSelector(&s.PodSelector, c.options, at.Child("podSelector"))...)
	for i := range s.Ingress {
		at := at.Child("ingress").Index(i)
		c.ports(at.Child("ports"), s.Ingress[i].Ports)
		c.peers(at.Child("from"), s.Ingress[i].From)
	}
	for i := range s.Egress {
		at := at.Child("egress").Index(i)
		c.ports(at.Child("ports"), s.Egress[i].Ports)
		c.peers(at.Child("to"), s.Egress[i].To)
	}
	at = at.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		c.invalid(at, s.PolicyTypes, "may not specify more than two policyTypes")
		return c.list
	}
	for i, t := range s.PolicyTypes {
		oneOf(&c.problems, at.Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
	return c.list
}

// blocks calls visit for every range of addresses.
func blocks(o *networkingv1.NetworkPolicy, visit func(b *networkingv1.IPBlock, at *field.Path)) {
	each := func(peers []networkingv1.NetworkPolicyPeer, at *field.Path) {
		for i := range peers {
			if b := peers[i].IPBlock; b != nil {
				visit(b, at.Index(i).Child("ipBlock"))
			}
		}
	}
	for i := range o.Spec.Ingress {
		each(o.Spec.Ingress[i].From, field.NewPath("spec", "ingress").Index(i).Child("from"))
	}
	for i := range o.Spec.Egress {
		each(o.Spec.Egress[i].To, field.NewPath("spec", "egress").Index(i).Child("to"))
	}
}

// networkPolicyWarnings tells of ranges of addresses that are written in an odd way.
func networkPolicyWarnings(o, _ *networkingv1.NetworkPolicy) (l []string) {
	blocks(o, func(b *networkingv1.IPBlock, at *field.Path) {
		l = append(l, utilvalidation.GetWarningsForCIDR(at.Child("cidr"), b.CIDR)...)
		for i, e := range b.Except {
			l = append(l, utilvalidation.GetWarningsForCIDR(at.Child("except").Index(i), e)...)
		}
	})
	return l
}

func (c *policyCheck) ports(at *field.Path, ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		port, at := &ports[i], at.Index(i)
		if port.Protocol != nil {
			oneOf(&c.problems, at.Child("protocol"), *port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		end := port.EndPort
		switch {
		case port.Port == nil:
			if end != nil {
				c.invalid(at.Child("endPort"), *end, "may not be specified when `port` is not specified")
			}
		case port.Port.Type == intstr.Int:
			first := port.Port.IntVal
			c.each(at.Child("port"), first, utilvalidation.IsValidPortNum(int(first)))
			if end != nil {
				if *end < first {
					c.invalid(at.Child("endPort"), *end, "must be greater than or equal to `port`")
				}
				c.each(at.Child("endPort"), *end, utilvalidation.IsValidPortNum(int(*end)))
			}
		default:
			if end != nil {
				c.invalid(at.Child("endPort"), *end, "may not be specified when `port` is non-numeric")
			}
			c.each(at.Child("port"), port.Port.StrVal, utilvalidation.IsValidPortName(port.Port.StrVal))
		}
	}
}

func (c *policyCheck) peers(at *field.Path, peers []networkingv1.NetworkPolicyPeer) {
	for i := range peers {
		peer, at := &peers[i], at.Index(i)
		c.add(metav1validation.ValidateLabelSelector(peer.PodSelector, c.options, at.Child("podSelector"))...)
		c.add(metav1validation.ValidateLabelSelector(peer.NamespaceSelector, c.options, at.Child("namespaceSelector"))...)
		selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
		switch {
		case peer.IPBlock == nil && !selects:
			c.required(at, "must specify a peer")
		case peer.IPBlock == nil:
		default:
			c.block(at.Child("ipBlock"), peer.IPBlock)
			if selects {
				c.forbidden(at, "may not specify both ipBlock and another peer")
			}
		}
	}
}

func (c *policyCheck) block(at *field.Path, b *networkingv1.IPBlock) {
	if !c.have(at.Child("cidr"), b.CIDR) {
		return
	}
	c.add(utilvalidation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, c.known)...)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return // said above
	}
	for i, e := range b.Except {
		at := at.Child("except").Index(i)
		c.add(utilvalidation.IsValidCIDRForLegacyField(at, e, true, c.known)...)
		_, part, err := netutils.ParseCIDRSloppy(e)
		if err != nil {
			continue
		}
		wholeBits, _ := whole.Mask.Size()
		partBits, _ := part.Mask.Size()
		if !whole.Contains(part.IP) || wholeBits >= partBits {
			c.invalid(at, e, "must be a strict subset of `cidr`")
		}
	}
}

func validateIngressClass(o *networkingv1.IngressClass) field.ErrorList {
	var p problems
	at := field.NewPath("spec")
	if len(o.Spec.Controller) > maxIngressController {
		p.add(field.TooLong(at.Child("controller"), "", maxIngressController))
	}
	p.add(utilvalidation.IsDomainPrefixedPath(at.Child("controller"), o.Spec.Controller)...)
	if r := o.Spec.Parameters; r != nil {
		at := at.Child("parameters")
		p.reference(at, r.APIGroup, r.Kind, r.Name)
		p.classScope(at, r)
	}
	return p.list
}

// reference checks the name of an object in the same namespace, or in none.
func (p *problems) reference(at *field.Path, group *string, kind, name string) {
	if group != nil {
		p.subdomain(at.Child("apiGroup"), *group)
	}
	if p.have(at.Child("kind"), kind) {
		p.each(at.Child("kind"), kind, content.IsPathSegmentName(kind))
	}
	if p.have(at.Child("name"), name) {
		p.each(at.Child("name"), name, content.IsPathSegmentName(name))
	}
}

func (p *problems) classScope(at *field.Path, r *networkingv1.IngressClassParametersReference) {
	cluster, namespace := networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	if r.Scope == nil {
		p.required(at.Child("scope"), "")
		return
	}
	oneOf(p, at.Child("scope"), *r.Scope, cluster, namespace)
	switch at := at.Child("namespace"); {
	case *r.Scope == namespace && r.Namespace == nil:
		p.required(at, "`parameters.scope` is set to 'Namespace'")
	case *r.Scope == namespace:
		p.each(at, *r.Namespace, validation.ValidateNamespaceName(*r.Namespace, false))
	case *r.Scope == cluster && r.Namespace != nil:
		p.forbidden(at, "`parameters.scope` is set to 'Cluster'")
	}
}

func validateIngressClassUpdate(o, old *networkingv1.IngressClass) field.ErrorList {
	return validation.ValidateImmutableField(o.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))
}

// ingressCheck checks an Ingress. Some of what was wrong before may stay.
type ingressCheck struct {
	problems
	badSecrets, badWildcards bool
}

func validateIngress(o, old *networkingv1.Ingress) field.ErrorList {
	var c ingressCheck
	if old != nil {
		c.badSecrets = slices.ContainsFunc(old.Spec.TLS, func(t networkingv1.IngressTLS) bool { return len(secretErrors(t.SecretName)) > 0 })
		c.badWildcards = slices.ContainsFunc(old.Spec.Rules, func(r networkingv1.IngressRule) bool {
			var was ingressCheck
			was.rule(nil, &r)
			return strings.Contains(r.Host, wildcard) && len(was.list) > 0
		})
	}
	c.spec(&o.Spec)
	class, ok := o.Annotations[oldIngressClass]
	if n := o.Spec.IngressClassName; old == nil && ok && n != nil && class != *n {
		c.invalid(field.NewPath("annotations").Child(oldIngressClass), class, "must match `ingressClassName` when both are specified")
	}
	return c.list
}

func secretErrors(name string) []string {
	if name == "" {
		return nil
	}
	return validation.NameIsDNSSubdomain(name, false)
}

func (c *ingressCheck) spec(s *networkingv1.IngressSpec) {
	at := field.NewPath("spec")
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		c.invalid(at, s.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if s.DefaultBackend != nil {
		c.backend(at.Child("defaultBackend"), s.DefaultBackend)
	}
	for i := range s.Rules {
		r, at := &s.Rules[i], at.Child("rules").Index(i)
		if r.Host != "" {
			if netutils.ParseIPSloppy(r.Host) != nil {
				c.invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address")
			}
			c.host(at.Child("host"), r.Host)
		}
		if !c.badWildcards || !strings.Contains(r.Host, wildcard) {
			c.rule(at, r)
		}
	}
	for i := range s.TLS {
		t, at := &s.TLS[i], at.Child("tls").Index(i)
		for j, h := range t.Hosts {
			c.host(at.Child("hosts").Index(j), h)
		}
		if !c.badSecrets {
			c.each(at.Child("secretName"), t.SecretName, secretErrors(t.SecretName))
		}
	}
	if n := s.IngressClassName; n != nil {
		c.name(at.Child("ingressClassName"), *n)
	}
}

func (c *ingressCheck) host(at *field.Path, host string) {
	if strings.Contains(host, wildcard) {
		c.each(at, host, utilvalidation.IsWildcardDNS1123Subdomain(host))
		return
	}
	c.subdomain(at, host)
}

func (c *ingressCheck) rule(at *field.Path, r *networkingv1.IngressRule) {
	if r.HTTP == nil {
		return
	}
	at = at.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		c.required(at, "")
	}
	for i := range r.HTTP.Paths {
		p, at := &r.HTTP.Paths[i], at.Index(i)
		if p.PathType == nil {
			c.required(at.Child("pathType"), "pathType must be specified")
			continue
		}
		c.path(at, *p.PathType, p.Path)
		c.backend(at.Child("backend"), &p.Backend)
	}
}

func (c *ingressCheck) path(at *field.Path, t networkingv1.PathType, path string) {
	exact, special, prefix := networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix
	oneOf(&c.problems, at.Child("pathType"), t, exact, special, prefix)
	at = at.Child("path")
	switch {
	case t != exact && t != special && t != prefix, t == special && path == "":
		return
	case !strings.HasPrefix(path, "/"):
		c.invalid(at, path, "must be an absolute path")
	}
	if t == special {
		return
	}
	for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(path, part) {
			c.invalid(at, path, "must not contain '"+part+"'")
		}
	}
	for _, end := range []string{"/..", "/."} {
		if strings.HasSuffix(path, end) {
			c.invalid(at, path, "cannot end with '"+end+"'")
		}
	}
}

func (c *ingressCheck) backend(at *field.Path, b *networkingv1.IngressBackend) {
	switch s := b.Service; {
	case b.Resource != nil && s != nil:
		c.invalid(at, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		c.reference(at.Child("resource"), b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name)
	case s == nil:
		c.invalid(at, "", "resource or service backend is required")
	default:
		if name := at.Child("service", "name"); c.have(name, s.Name) {
			c.each(name, s.Name, validation.NameIsDNSLabel(s.Name, false))
		}
		port := at.Child("service", "port")
		switch {
		case s.Port.Name != "" && s.Port.Number != 0:
			c.invalid(at, "", "cannot set both port name & port number")
		case s.Port.Name != "":
			c.each(port.Child("name"), s.Port.Name, utilvalidation.IsValidPortName(s.Port.Name))
		case s.Port.Number != 0:
			c.each(port.Child("number"), s.Port.Number, utilvalidation.IsValidPortNum(int(s.Port.Number)))
		default:
			c.required(at, "port name or number is required")
		}
	}
}

func validateIngressStatus(o, old *networkingv1.Ingress) field.ErrorList {
	var p problems
	var known []string
	for i := range old.Status.LoadBalancer.Ingress {
		known = append(known, old.Status.LoadBalancer.Ingress[i].IP)
	}
	for i := range o.Status.LoadBalancer.Ingress {
		in, at := &o.Status.LoadBalancer.Ingress[i], field.NewPath("status", "loadBalancer", "ingress").Index(i)
		if in.IP != "" {
			p.ipAddress(at.Child("ip"), in.IP, known...)
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
