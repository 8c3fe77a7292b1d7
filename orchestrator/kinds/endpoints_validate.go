package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// What an EndpointSlice may have at most.
const (
	maxSliceEndpoints    = 1000
	maxEndpointAddresses = 100
	maxSlicePorts        = 20000
	maxEndpointHints     = 8
)

// ipAddress checks an IP address in a field that is older than today's rules. known are those that may stay.
func (p *problems) ipAddress(at *field.Path, ip string, known ...string) bool {
	errs := utilvalidation.IsValidIPForLegacyField(at, ip, true, known)
	p.add(errs...)
	return len(errs) == 0
}

// endpointIP checks an address that traffic is sent to.
func (p *problems) endpointIP(at *field.Path, address string) {
	ip := netutils.ParseIPSloppy(address)
	if ip == nil {
		p.invalid(at, address, "must be a valid IP address")
		return
	}
	if ip.IsUnspecified() {
		p.invalid(at, address, fmt.Sprintf("may not be unspecified (%v)", address))
	}
	if ip.IsLoopback() {
		p.invalid(at, address, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	}
	if ip.IsLinkLocalUnicast() {
		p.invalid(at, address, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	}
	if ip.IsLinkLocalMulticast() {
		p.invalid(at, address, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}

func (p *problems) protocol(at *field.Path, protocol corev1.Protocol) {
	mustBeOneOf(p, at, protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

func validateEndpoints(o *corev1.Endpoints) field.ErrorList {
	var p problems
	for i := range o.Subsets {
		s, at := &o.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			p.required(at, "must specify `addresses` or `notReadyAddresses`")
		}
		for j := range s.Addresses {
			p.endpointAddress(at.Child("addresses").Index(j), &s.Addresses[j])
		}
		for j := range s.NotReadyAddresses {
			p.endpointAddress(at.Child("notReadyAddresses").Index(j), &s.NotReadyAddresses[j])
		}
		for j := range s.Ports {
			p.endpointPort(at.Child("ports").Index(j), &s.Ports[j], len(s.Ports) > 1)
		}
	}
	return p.list
}

// validateEndpointsUpdate lets stay what is wrong.
func validateEndpointsUpdate(o, old *corev1.Endpoints) field.ErrorList {
	errs := validateEndpoints(o)
	if len(errs) > 0 && equality.Semantic.DeepEqual(o.Subsets, old.Subsets) {
		return nil
	}
	return errs
}

func (p *problems) endpointAddress(at *field.Path, a *corev1.EndpointAddress) {
	p.ipAddress(at.Child("ip"), a.IP)
	if a.Hostname != "" {
		p.label(at.Child("hostname"), a.Hostname)
	}
	if a.NodeName != nil {
		p.name(at.Child("nodeName"), *a.NodeName)
	}
	p.endpointIP(at.Child("ip"), a.IP)
}

func (p *problems) endpointPort(at *field.Path, port *corev1.EndpointPort, named bool) {
	switch {
	case port.Name != "":
		p.label(at.Child("name"), port.Name)
	case named:
		p.required(at.Child("name"), "")
	}
	p.each(at.Child("port"), port.Port, utilvalidation.IsValidPortNum(int(port.Port)))
	p.protocol(at.Child("protocol"), port.Protocol)
	if port.AppProtocol != nil {
		p.qualifiedName(at.Child("appProtocol"), *port.AppProtocol)
	}
}

func warnOfEndpoints(o, _ *corev1.Endpoints) (warnings []string) {
	if o.Labels["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
		return nil // it writes addresses as they should be
	}
	warn := func(at *field.Path, addresses []corev1.EndpointAddress) {
		for i, a := range addresses {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(at.Index(i).Child("ip"), a.IP)...)
		}
	}
	for i, s := range o.Subsets {
		at := field.NewPath("subsets").Index(i)
		warn(at.Child("addresses"), s.Addresses)
		warn(at.Child("notReadyAddresses"), s.NotReadyAddresses)
	}
	return warnings
}

func validateEndpointSlice(o *discoveryv1.EndpointSlice) field.ErrorList {
	p := sliceHead(o)
	p.sliceEndpoints(o)
	return p.list
}

// validateEndpointSliceUpdate lets stay what is wrong with endpoints.
func validateEndpointSliceUpdate(o, old *discoveryv1.EndpointSlice) field.ErrorList {
	p := sliceHead(o)
	var e problems
	e.sliceEndpoints(o)
	if len(e.list) > 0 && !equality.Semantic.DeepEqual(o.Endpoints, old.Endpoints) {
		p.add(e.list...)
	}
	p.add(validation.ValidateImmutableField(o.AddressType, old.AddressType, field.NewPath("addressType"))...)
	return p.list
}

// sliceHead checks all of an EndpointSlice but its endpoints.
func sliceHead(o *discoveryv1.EndpointSlice) *problems {
	p := &problems{}
	mustBeOneOf(p, field.NewPath("addressType"), o.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	at := field.NewPath("ports")
	if len(o.Ports) > maxSlicePorts {
		p.add(field.TooMany(at, len(o.Ports), maxSlicePorts))
		return p
	}
	names := map[string]bool{}
	for i, port := range o.Ports {
		at, name := at.Index(i), ptr.Deref(port.Name, "")
		if name != "" {
			p.label(at.Child("name"), name)
		}
		unique(p, names, at.Child("name"), name)
		p.protocol(at.Child("protocol"), ptr.Deref(port.Protocol, ""))
		if port.AppProtocol != nil {
			p.qualifiedName(at.Child("appProtocol"), *port.AppProtocol)
		}
	}
	return p
}

func (p *problems) sliceEndpoints(o *discoveryv1.EndpointSlice) {
	at := field.NewPath("endpoints")
	if len(o.Endpoints) > maxSliceEndpoints {
		p.add(field.TooMany(at, len(o.Endpoints), maxSliceEndpoints))
		return
	}
	for i := range o.Endpoints {
		e, at := &o.Endpoints[i], at.Index(i)
		switch n := len(e.Addresses); {
		case n == 0:
			p.required(at.Child("addresses"), "must contain at least 1 address")
		case n > maxEndpointAddresses:
			p.add(field.TooMany(at.Child("addresses"), n, maxEndpointAddresses))
		}
		for j, a := range e.Addresses {
			p.sliceAddress(at.Child("addresses"), j, o.AddressType, a)
		}
		if e.NodeName != nil {
			p.name(at.Child("nodeName"), *e.NodeName)
		}
		if e.Hostname != nil {
			p.label(at.Child("hostname"), *e.Hostname)
		}
		if e.Hints != nil {
			p.hints(at.Child("hints"), e.Hints)
		}
	}
}

func (p *problems) sliceAddress(at *field.Path, i int, t discoveryv1.AddressType, a string) {
	switch t {
	case discoveryv1.AddressTypeIPv4:
		if p.ipAddress(at.Index(i), a) {
			if !netutils.IsIPv4String(a) {
				p.invalid(at, a, "must be an IPv4 address")
			}
			p.endpointIP(at.Index(i), a)
		}
	case discoveryv1.AddressTypeIPv6:
		if errs := utilvalidation.IsValidIP(at.Index(i), a); len(errs) > 0 {
			p.add(errs...)
			return
		}
		if !netutils.IsIPv6String(a) {
			p.invalid(at, a, "must be an IPv6 address")
		}
		p.endpointIP(at.Index(i), a)
	case discoveryv1.AddressTypeFQDN:
		p.add(utilvalidation.IsFullyQualifiedDomainName(at.Index(i), a)...)
	}
}

func (p *problems) hints(at *field.Path, h *discoveryv1.EndpointHints) {
	zones, nodes := at.Child("forZones"), at.Child("forNodes")
	if len(h.ForZones) > maxEndpointHints {
		p.add(field.TooMany(zones, len(h.ForZones), maxEndpointHints))
		return
	}
	seen := map[string]bool{}
	for i, z := range h.ForZones {
		unique(p, seen, zones.Index(i).Child("name"), z.Name)
		p.each(zones.Index(i).Child("name"), z.Name, utilvalidation.IsValidLabelValue(z.Name))
	}
	if len(h.ForNodes) > maxEndpointHints {
		p.add(field.TooMany(nodes, len(h.ForNodes), maxEndpointHints))
		return
	}
	clear(seen)
	for i, n := range h.ForNodes {
		unique(p, seen, nodes.Index(i).Child("name"), n.Name)
		p.name(nodes.Index(i).Child("name"), n.Name)
	}
}

func warnOfEndpointSlice(o, old *discoveryv1.EndpointSlice) (warnings []string) {
	if old == nil && o.AddressType == discoveryv1.AddressTypeFQDN {
		warnings = append(warnings, "spec.addressType: FQDN endpoints are deprecated")
	}
	switch o.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return warnings // they write addresses as they should be
	}
	if o.AddressType == discoveryv1.AddressTypeFQDN {
		return warnings
	}
	for i, e := range o.Endpoints {
		for j, a := range e.Addresses {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return warnings
}
