package announce

import (
	"crypto/sha256"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// Annotation is on nodes that answer for addresses of load balancers.
const Annotation = "keelson.io/announces-load-balancers"

// Class is that of services whose addresses are announced. Those of services without a class are, too.
const Class = "keelson.io/pool"

// world is what nodes decide by.
type world struct {
	nodes    []*corev1.Node
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	pool     func(netip.Addr) bool
}

// mine are the addresses that a node answers for, in order.
func (w *world) mine(node string) (out []netip.Addr) {
	var able []string
	for _, n := range w.nodes {
		if announces(n) {
			able = append(able, n.Name)
		}
	}
	if !slices.Contains(able, node) {
		return nil
	}
	for _, s := range w.services {
		for _, a := range w.addresses(s) {
			candidates := able
			if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
				candidates = w.serving(s, able)
			}
			if winner(candidates, a) == node && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// announces says whether a node may be chosen.
func announces(n *corev1.Node) bool {
	_, does := n.Annotations[Annotation]
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	return does && !excluded && n.DeletionTimestamp == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// addresses are those of a service that are of the pool.
func (w *world) addresses(s *corev1.Service) (out []netip.Addr) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || ptr.Deref(s.Spec.LoadBalancerClass, Class) != Class {
		return nil
	}
	for _, i := range s.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(i.IP); err == nil && w.pool(a) && ptr.Deref(i.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
			out = append(out, a)
		}
	}
	return out
}

// serving are the nodes that have endpoints of a service: ready ones, or where there is none anywhere, those that still serve.
func (w *world) serving(s *corev1.Service, nodes []string) []string {
	ready, ending := map[string]bool{}, map[string]bool{}
	for _, slice := range w.slices {
		if slice.Namespace != s.Namespace || slice.Labels[discoveryv1.LabelServiceName] != s.Name {
			continue
		}
		for _, e := range slice.Endpoints {
			node, ok := ptr.Deref(e.NodeName, ""), ptr.Deref(e.Conditions.Ready, true)
			ready[node] = ready[node] || ok
			ending[node] = ending[node] || ptr.Deref(e.Conditions.Serving, ok)
		}
	}
	in := func(set map[string]bool) []string {
		return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return !set[n] })
	}
	if out := in(ready); len(out) > 0 {
		return out
	}
	return in(ending)
}

// winner is the node that answers for an address; "" if there is none.
func winner(nodes []string, a netip.Addr) (best string) {
	var most [sha256.Size]byte
	for _, n := range nodes {
		if h := sha256.Sum256([]byte(n + "\x00" + a.String())); best == "" || slices.Compare(h[:], most[:]) > 0 {
			best, most = n, h
		}
	}
	return best
}
