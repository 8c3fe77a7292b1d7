package policy

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

// What stands for the cluster's DNS server where selectors look for it.
const (
	systemNamespace = "kube-system"
	dnsPort         = 53
)

var (
	dnsLabels = labels.Set{"k8s-app": "kube-dns"}
	dnsNames  = map[portName][]uint16{{"dns", protocols[corev1.ProtocolUDP]}: {dnsPort}, {"dns-tcp", protocols[corev1.ProtocolTCP]}: {dnsPort}}
)

// state is what is known of the cluster, and what it means. It is not safe for concurrent use.
type state struct {
	pods       map[string]*pod // by namespace/name; those that policies can be about
	namespaces map[string]labels.Set
	policies   map[string]map[string]*policy // by namespace, by name
	subjects   map[string]*subject           // by sandbox
	groups     map[string]*group             // by the name of the set; those that the last table has
	dns        *pod
}

func newState(dns []netip.Addr) *state {
	return &state{
		pods: map[string]*pod{}, namespaces: map[string]labels.Set{}, policies: map[string]map[string]*policy{}, subjects: map[string]*subject{},
		groups: map[string]*group{}, dns: &pod{namespace: systemNamespace, labels: dnsLabels, addresses: dns, ports: dnsNames},
	}
}

// pod is what policies look at.
type pod struct {
	namespace, name string
	ids             [2]string // its UID, and that of the static pod that it mirrors
	labels          labels.Set
	addresses       []netip.Addr
	ports           map[portName][]uint16
}

// mirrorOf is the annotation by which a pod that stands for a static one names that.
const mirrorOf = "kubernetes.io/config.hash"

// podOf reads a pod, or is nil where there is nothing that a policy could be about: it is over, or uses the network of its node.
func podOf(o *corev1.Pod) *pod {
	if o.Spec.HostNetwork || o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
		return nil
	}
	p := &pod{namespace: o.Namespace, name: o.Name, ids: [2]string{string(o.UID), o.Annotations[mirrorOf]}, labels: o.Labels, ports: map[portName][]uint16{}}
	for _, ip := range o.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.addresses = append(p.addresses, a.Unmap())
		}
	}
	add := func(c *corev1.Container) {
		for _, x := range c.Ports {
			if protocol := protocols[x.Protocol]; x.Name != "" && protocol != 0 {
				n := portName{x.Name, protocol}
				p.ports[n] = append(p.ports[n], uint16(x.ContainerPort))
			}
		}
	}
	for i := range o.Spec.Containers {
		add(&o.Spec.Containers[i])
	}
	for i := range o.Spec.InitContainers {
		if c := &o.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return p
}

// subject is a sandbox of this node, which policies may select.
type subject struct {
	podnet.Pod
	labels labels.Set    // of its pod, as they were last seen
	known  chan struct{} // closed: its pod was seen
}

func (s *subject) key() string { return s.Namespace + "/" + s.Name }

func (s *subject) seen() bool {
	select {
	case <-s.known:
		return true
	default:
		return false
	}
}

// see takes note of the pod of a subject, if it is that.
func (s *subject) see(p *pod) {
	if p == nil || s.UID == "" || !slices.Contains(p.ids[:], s.UID) {
		return
	}
	s.labels = p.labels
	if !s.seen() {
		close(s.known)
	}
}

// attach adds a sandbox, or returns what it has become since.
func (s *state) attach(p podnet.Pod) *subject {
	if x := s.subjects[p.ID]; x != nil {
		x.Pod = p
		return x
	}
	x := &subject{Pod: p, known: make(chan struct{})}
	s.subjects[p.ID] = x
	x.see(s.pods[x.key()])
	s.regroup(x.key())
	return x
}

func (s *state) forget(id string) {
	if x := s.subjects[id]; x != nil {
		delete(s.subjects, id)
		s.regroup(x.key())
	}
}

// setPod takes note of a pod. It says whether that can matter.
func (s *state) setPod(o *corev1.Pod) bool {
	key, p := o.Namespace+"/"+o.Name, podOf(o)
	if p == nil {
		return s.dropPod(key)
	}
	if was := s.pods[key]; was != nil && was.same(p) {
		return false
	}
	s.pods[key] = p
	mine := false
	for _, x := range s.subjects {
		if x.key() == key {
			x.see(p)
			mine = true
		}
	}
	return s.regroup(key) || mine
}

func (p *pod) same(o *pod) bool {
	return p.ids == o.ids && maps.Equal(p.labels, o.labels) && slices.Equal(p.addresses, o.addresses) && maps.EqualFunc(p.ports, o.ports, slices.Equal)
}

// dropPod forgets a pod. What its sandbox may do stays as it was: its containers may go on for a while.
func (s *state) dropPod(key string) bool {
	if s.pods[key] == nil {
		return false
	}
	delete(s.pods, key)
	return s.regroup(key)
}

func (s *state) setNamespace(name string, l labels.Set) bool {
	was, ok := s.namespaces[name]
	if ok && maps.Equal(was, l) {
		return false
	}
	s.namespaces[name] = l
	s.relabelled(name)
	return true
}

func (s *state) dropNamespace(name string) bool {
	delete(s.namespaces, name)
	s.relabelled(name)
	return true
}

func (s *state) relabelled(namespace string) {
	for key, p := range s.pods {
		if p.namespace == namespace {
			s.regroup(key)
		}
	}
	if namespace == systemNamespace { // rules that stand for its DNS server
		for _, in := range s.policies {
			for _, p := range in {
				p.chains = [2]*nft.Chain{}
			}
		}
	}
}

func (s *state) setPolicy(o *networkingv1.NetworkPolicy) {
	in := s.policies[o.Namespace]
	if in == nil {
		in = map[string]*policy{}
		s.policies[o.Namespace] = in
	}
	in[o.Name] = understand(o)
}

func (s *state) dropPolicy(namespace, name string) {
	delete(s.policies[namespace], name)
	if len(s.policies[namespace]) == 0 {
		delete(s.policies, namespace)
	}
}

// addressesOf are those of a pod: as its status says, and as its sandboxes here have them, which is earlier.
func (s *state) addressesOf(p *pod) []netip.Addr {
	all := slices.Clone(p.addresses)
	for _, x := range s.subjects {
		if x.Namespace == p.namespace && x.Name == p.name && slices.Contains(p.ids[:], x.UID) {
			all = append(all, x.Addresses...)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// regroup puts a pod into the groups that it belongs to. It says whether any changed.
func (s *state) regroup(key string) (changed bool) {
	p := s.pods[key]
	var addresses []netip.Addr
	if p != nil {
		addresses = s.addressesOf(p)
	}
	for _, g := range s.groups {
		changed = g.put(key, s.elements(g, p, addresses)) || changed
	}
	return changed
}

// matches says whether a pod is among peers.
func (s *state) matches(of peer, p *pod) bool {
	if of.namespace != "" && of.namespace != p.namespace || of.namespace == "" && !of.namespaces.Matches(s.namespaces[p.namespace]) {
		return false
	}
	return of.pods.Matches(p.labels)
}
