package framework

import (
	"maps"

	"k8s.io/apimachinery/pkg/labels"
)

// maxTopologies bounds the keys for which the index keeps counts; beyond it, it starts afresh.
const maxTopologies = 64

// Class are the pods of one namespace with equal labels.
type Class struct {
	Namespace string
	Labels    labels.Set
	// Terminating classes are of pods that are being deleted.
	Terminating bool
	Counter
}

// TermKind tells what affinity a term is of.
type TermKind int

// The kinds of terms.
const (
	RequiredAffinity TermKind = iota
	RequiredAntiAffinity
	PreferredAffinity
	PreferredAntiAffinity
	termKinds
)

// TermGroup are the pods that have one and the same affinity term.
type TermGroup struct {
	Term Term
	Counter
}

// Index finds pods by their labels and by their affinity, over all nodes.
type Index struct {
	slots      []*NodeInfo
	freeSlots  []int32
	topologies map[string]*Topology
	classes    map[string]map[string]*Class // by namespace and key
	groups     [termKinds]map[string]*TermGroup
	images     map[string]int32
}

func newIndex() *Index {
	x := &Index{topologies: map[string]*Topology{}, classes: map[string]map[string]*Class{}, images: map[string]int32{}}
	for k := range x.groups {
		x.groups[k] = map[string]*TermGroup{}
	}
	return x
}

// Slots is one more than the greatest slot.
func (x *Index) Slots() int { return len(x.slots) }

// Topology numbers the domains of a node label.
func (x *Index) Topology(key string) *Topology {
	t := x.topologies[key]
	if t == nil {
		t = newTopology(key, x.slots)
		x.topologies[key] = t
	}
	return t
}

// Classes calls f for the classes of a namespace, or of all if namespace is "".
func (x *Index) Classes(namespace string, f func(*Class)) {
	if namespace != "" {
		for _, c := range x.classes[namespace] {
			f(c)
		}
		return
	}
	for _, in := range x.classes {
		for _, c := range in {
			f(c)
		}
	}
}

// Namespaces calls f for the namespaces that have pods on nodes.
func (x *Index) Namespaces(f func(namespace string)) {
	for ns := range x.classes {
		f(ns)
	}
}

// Terms calls f for the groups of one kind.
func (x *Index) Terms(kind TermKind, f func(*TermGroup)) {
	for _, g := range x.groups[kind] {
		f(g)
	}
}

// HasTerms tells whether any pod has a term of the kind.
func (x *Index) HasTerms(kind TermKind) bool { return len(x.groups[kind]) > 0 }

// ImageNodes is the number of nodes that have an image.
func (x *Index) ImageNodes(image string) int { return int(x.images[image]) }

// update replaces a node's information; either may be nil. It gives the new one its slot.
func (x *Index) update(old, now *NodeInfo) {
	switch {
	case old == nil:
		x.assign(now)
		x.countImages(nil, now.Images)
		x.addPods(now.Slot, now.Pods, 1)
	case now == nil:
		x.countImages(old.Images, nil)
		x.addPods(old.Slot, old.Pods, -1)
		x.release(old)
	default:
		now.Slot = old.Slot
		x.slots[now.Slot] = now
		if old.node == now.node {
			x.diffPods(now.Slot, old.Pods, now.Pods)
			return
		}
		x.countImages(old.Images, now.Images)
		if !x.moved(old, now) {
			x.diffPods(now.Slot, old.Pods, now.Pods)
			return
		}
		x.addPods(old.Slot, old.Pods, -1)
		for _, t := range x.topologies {
			t.drop(now.Slot)
			t.put(now.Slot, now)
		}
		x.addPods(now.Slot, now.Pods, 1)
	}
}

// moved tells whether the node is in another domain of some topology.
func (x *Index) moved(old, now *NodeInfo) bool {
	for _, t := range x.topologies {
		a, okA := t.value(old)
		b, okB := t.value(now)
		if a != b || okA != okB {
			return true
		}
	}
	return false
}

func (x *Index) assign(n *NodeInfo) {
	if last := len(x.freeSlots) - 1; last >= 0 {
		n.Slot = x.freeSlots[last]
		x.freeSlots = x.freeSlots[:last]
		x.slots[n.Slot] = n
	} else {
		n.Slot = int32(len(x.slots))
		x.slots = append(x.slots, n)
	}
	for _, t := range x.topologies {
		t.put(n.Slot, n)
	}
}

func (x *Index) release(n *NodeInfo) {
	for _, t := range x.topologies {
		t.drop(n.Slot)
	}
	x.slots[n.Slot] = nil
	x.freeSlots = append(x.freeSlots, n.Slot)
}

func (x *Index) countImages(old, now map[string]int64) {
	if len(old) == 0 && len(now) == 0 || maps.Equal(old, now) {
		return
	}
	for name := range old {
		if x.images[name]--; x.images[name] == 0 {
			delete(x.images, name)
		}
	}
	for name := range now {
		x.images[name]++
	}
}

// diffPods counts what differs between two lists of pods. They mostly share all but their ends.
func (x *Index) diffPods(slot int32, old, now []*PodInfo) {
	same := 0
	for same < len(old) && same < len(now) && old[same] == now[same] {
		same++
	}
	old, now = old[same:], now[same:]
	if len(old) == 0 || len(now) == 0 {
		x.addPods(slot, old, -1)
		x.addPods(slot, now, 1)
		return
	}
	left := make(map[*PodInfo]struct{}, len(old))
	for _, p := range old {
		left[p] = struct{}{}
	}
	for _, p := range now {
		if _, both := left[p]; both {
			delete(left, p)
		} else {
			x.addPod(slot, p, 1)
		}
	}
	for p := range left {
		x.addPod(slot, p, -1)
	}
}

func (x *Index) addPods(slot int32, pods []*PodInfo, sign int32) {
	for _, p := range pods {
		x.addPod(slot, p, sign)
	}
}

func (x *Index) addPod(slot int32, p *PodInfo, sign int32) {
	in := x.classes[p.Pod.Namespace]
	if in == nil {
		in = map[string]*Class{}
		x.classes[p.Pod.Namespace] = in
	}
	c := in[p.class]
	if c == nil {
		c = &Class{Namespace: p.Pod.Namespace, Labels: p.Pod.Labels, Terminating: p.Pod.DeletionTimestamp != nil}
		in[p.class] = c
	}
	if c.add(slot, sign); c.Empty() {
		if delete(in, p.class); len(in) == 0 {
			delete(x.classes, p.Pod.Namespace)
		}
	}
	if p.HasAffinity() {
		x.addTerms(RequiredAffinity, slot, p.Terms.RequiredAffinity, sign)
		x.addTerms(RequiredAntiAffinity, slot, p.Terms.RequiredAntiAffinity, sign)
		x.addTerms(PreferredAffinity, slot, p.Terms.PreferredAffinity, sign)
		x.addTerms(PreferredAntiAffinity, slot, p.Terms.PreferredAntiAffinity, sign)
	}
}

func (x *Index) addTerms(kind TermKind, slot int32, terms []Term, sign int32) {
	groups := x.groups[kind]
	for i := range terms {
		g := groups[terms[i].key]
		if g == nil {
			g = &TermGroup{Term: terms[i]}
			groups[terms[i].key] = g
		}
		if g.add(slot, sign); g.Empty() {
			delete(groups, terms[i].key)
		}
	}
}

// forget drops all topologies if there are too many.
func (x *Index) forget() {
	if len(x.topologies) <= maxTopologies {
		return
	}
	clear(x.topologies)
	for _, in := range x.classes {
		for _, c := range in {
			c.domains = nil
		}
	}
	for _, groups := range x.groups {
		for _, g := range groups {
			g.domains = nil
		}
	}
}
