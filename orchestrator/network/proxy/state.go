package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// State turns services and slices into a table, and changes of them into changes of the table.
type State struct {
	fixed   surroundings // what the configuration says
	frame   *nft.Table
	here    place
	mu      sync.Mutex
	nodes   map[string][]string // ranges of pods, by node
	sources map[string]*source  // by namespace/name of the service
	of      map[string]string   // service by namespace/name of a slice
	dirty   map[string]bool
	moved   bool                 // the surroundings may have changed
	trigger map[string]time.Time // of dirty services: when what changed them happened
	counts  counts

	// Below is Change's alone.
	parts  map[string]*part // by namespace/name of the service; "": of the surroundings
	claims map[ref][]claim
}

// source is what a part is made of.
type source struct {
	service *corev1.Service
	slices  map[string]*discoveryv1.EndpointSlice
}

// inOrder are the slices by name: an endpoint may be in two of them.
func (x *source) inOrder() []*discoveryv1.EndpointSlice {
	all := slices.Collect(maps.Values(x.slices))
	slices.SortFunc(all, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// claim is a service's wish for a key.
type claim struct {
	since   int64
	service string
	element nft.Element
}

// counts are for the metrics.
type counts struct {
	services, endpoints, noLocal, noInside int
	serviceChanges, sliceChanges           int
}

// Change is what is to be done after objects changed.
type Change struct {
	Patch    *nft.Patch
	Triggers []time.Time // when what changed happened, where slices say so
	flows    []flow      // UDP ports whose endpoints changed
	health   bool        // a health check changed
}

func newState(node string, fixed surroundings) *State {
	limited := map[nft.Family]bool{}
	for _, p := range fixed.nodeAddresses {
		limited[nft.FamilyOf(p.Addr())] = true
	}
	return &State{
		fixed: fixed, frame: frame(limited), here: place{node: node}, nodes: map[string][]string{}, sources: map[string]*source{}, of: map[string]string{},
		dirty: map[string]bool{}, moved: true, trigger: map[string]time.Time{}, parts: map[string]*part{}, claims: map[ref][]claim{},
	}
}

func (s *State) source(key string) *source {
	x := s.sources[key]
	if x == nil {
		x = &source{slices: map[string]*discoveryv1.EndpointSlice{}}
		s.sources[key] = x
	}
	s.dirty[key] = true
	return x
}

// tidy forgets a source that there is nothing of.
func (s *State) tidy(key string) {
	if x := s.sources[key]; x.service == nil && len(x.slices) == 0 {
		delete(s.sources, key)
	}
}

func keyOf(namespace, name string) string { return namespace + "/" + name }

// SetService takes what a service is. As the other methods that take something, it says whether there is something to do.
func (s *State) SetService(svc *corev1.Service) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.source(keyOf(svc.Namespace, svc.Name)).service = svc
	s.counts.serviceChanges++
	return true
}

// DropService takes that a service is gone.
func (s *State) DropService(svc *corev1.Service) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(svc.Namespace, svc.Name)
	s.source(key).service = nil
	s.tidy(key)
	s.counts.serviceChanges++
	return true
}

// SetSlice takes what a slice is.
func (s *State) SetSlice(slice *discoveryv1.EndpointSlice) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := keyOf(slice.Namespace, slice.Name)
	key := keyOf(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName])
	if was, ok := s.of[name]; ok && was != key {
		s.drop(name)
	}
	s.of[name] = key
	s.source(key).slices[name] = slice
	s.counts.sliceChanges++
	if t, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		if old, ok := s.trigger[key]; !ok || t.Before(old) {
			s.trigger[key] = t
		}
	}
	return true
}

// DropSlice takes that a slice is gone.
func (s *State) DropSlice(slice *discoveryv1.EndpointSlice) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(keyOf(slice.Namespace, slice.Name))
	s.counts.sliceChanges++
	return true
}

func (s *State) drop(name string) {
	key, ok := s.of[name]
	if !ok {
		return
	}
	delete(s.of, name)
	delete(s.source(key).slices, name)
	s.tidy(key)
}

// SetNode takes what a node is; DropNode, that it is gone.
func (s *State) SetNode(n *corev1.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved = s.moved || !slices.Equal(s.nodes[n.Name], n.Spec.PodCIDRs)
	s.nodes[n.Name] = n.Spec.PodCIDRs
	if zone := n.Labels[corev1.LabelTopologyZone]; n.Name == s.here.node && zone != s.here.zone {
		s.here.zone = zone
		for key := range s.sources {
			s.dirty[key] = true
		}
	}
	return s.moved || len(s.dirty) > 0
}

// DropNode takes that a node is gone.
func (s *State) DropNode(n *corev1.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, n.Name)
	s.moved = true
	return true
}

// around is what is known of the cluster now.
func (s *State) around() surroundings {
	x := s.fixed
	x.cluster = slices.Clone(x.cluster)
	for name, ranges := range s.nodes {
		for _, text := range ranges {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				continue
			}
			x.cluster = append(x.cluster, p)
			if name == s.here.node {
				x.own = append(x.own, p)
			}
		}
	}
	return x
}

// Change takes what changed since the last call.
func (s *State) Change() *Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Change{Patch: &nft.Patch{}}
	if s.moved {
		s.replace(c, "", s.around().part())
		s.moved = false
	}
	for key := range s.dirty {
		var next *part
		if x := s.sources[key]; x != nil {
			next = partOf(x.service, x.inOrder(), s.here)
		}
		if t, ok := s.trigger[key]; ok && next != nil {
			c.Triggers = append(c.Triggers, t)
		}
		s.replace(c, key, next)
	}
	clear(s.dirty)
	clear(s.trigger)
	return c
}

// replace puts a part in the place of the one of a service.
func (s *State) replace(c *Change, key string, next *part) {
	was := s.parts[key]
	if next != nil {
		s.parts[key] = next
	} else {
		delete(s.parts, key)
	}
	s.count(was, -1)
	s.count(next, 1)
	none := &part{}
	was, next = cmp.Or(was, none), cmp.Or(next, none)
	for name := range was.chains {
		if next.chains[name] == nil {
			c.Patch.Chain(name, nil)
		}
	}
	for name, chain := range next.chains {
		if old := was.chains[name]; old == nil || !same(old, chain) {
			c.Patch.Chain(name, chain)
		}
	}
	for at := range was.elements {
		if _, ok := next.elements[at]; !ok {
			s.release(c, at, key)
		}
	}
	for at, e := range next.elements {
		s.claim(c, at, claim{next.since, key, e})
	}
	c.flows = append(c.flows, changedFlows(was.flows, next.flows)...)
	c.health = c.health || was.health != nil || next.health != nil
}

func (s *State) count(p *part, by int) {
	if p == nil || p.ports == 0 {
		return
	}
	s.counts.services += by
	s.counts.endpoints += by * p.endpoints
	s.counts.noLocal += by * p.noLocal
	s.counts.noInside += by * p.noInside
}

func same(a, b *nft.Chain) bool {
	return slices.EqualFunc(a.Rules, b.Rules, func(x, y nft.Rule) bool { return x.String() == y.String() })
}

// claim claims a key for a service. Of several the oldest has it.
func (s *State) claim(c *Change, at ref, mine claim) {
	all := s.claims[at]
	if len(all) == 1 && all[0].service == mine.service && all[0].since == mine.since && alike(all[0].element, mine.element) {
		return
	}
	all = slices.DeleteFunc(slices.Clone(all), func(x claim) bool { return x.service == mine.service })
	s.settle(c, at, append(all, mine))
}

// release gives a key back.
func (s *State) release(c *Change, at ref, service string) {
	s.settle(c, at, slices.DeleteFunc(slices.Clone(s.claims[at]), func(x claim) bool { return x.service == service }))
}

func (s *State) settle(c *Change, at ref, next []claim) {
	was := s.claims[at]
	slices.SortFunc(next, func(a, b claim) int { return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.service, b.service)) })
	if len(next) == 0 {
		delete(s.claims, at)
		c.Patch.Element(at.set, at.id, nil)
		return
	}
	s.claims[at] = next
	if len(was) == 0 || !alike(was[0].element, next[0].element) {
		c.Patch.Element(at.set, at.id, &next[0].element)
	}
}

func alike(a, b nft.Element) bool {
	return a.ID() == b.ID() && a.Goto == b.Goto && slices.Equal(a.Value, b.Value)
}

// Table is the whole table as of the last Change.
func (s *State) Table() *nft.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := nft.NewTable(TableName)
	maps.Copy(t.Chains, s.frame.Chains)
	for name, x := range s.frame.Sets {
		t.Set(name, x.Type)
	}
	for _, p := range s.parts {
		maps.Copy(t.Chains, p.chains)
	}
	for at, all := range s.claims {
		t.Sets[at.set].Elements[at.id] = all[0].element
	}
	return t
}

// checks are the health checks of all services.
func (s *State) checks() (out []health) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		if p.health != nil {
			out = append(out, *p.health)
		}
	}
	return out
}

// take returns the counts, and starts those of changes anew.
func (s *State) take() counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	s.counts.serviceChanges, s.counts.sliceChanges = 0, 0
	return c
}
