package plugins

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// sparseShare is the part of a topology's domains up to which it is cheaper to go through the slots of a counter, of
// which each is an entry in a map, than through an array of all domains.
const sparseShare = 16

// tally counts pods by the domains of one topology: those that were there, and what was added and removed for the
// sake of argument. Clones share the former.
type tally struct {
	topology *framework.Topology
	counts   []int32
	changes  []domainChange
}

type domainChange struct{ domain, by int32 }

func newTally(t *framework.Topology) tally {
	return tally{topology: t, counts: make([]int32, t.Len())}
}

// count adds the pods of a counter.
func (t *tally) count(c *framework.Counter) {
	if len(c.Slots()) <= len(t.counts)/sparseShare {
		for slot, n := range c.Slots() {
			if d := t.topology.Domain(slot); d != framework.NoDomain {
				t.counts[d] += n
			}
		}
		return
	}
	for d, n := range c.Domains(t.topology) {
		t.counts[d] += n
	}
}

// at returns the count of a domain.
func (t *tally) at(domain int32) int32 {
	n := t.counts[domain]
	for _, c := range t.changes {
		if c.domain == domain {
			n += c.by
		}
	}
	return n
}

// change adds to the count of a domain without touching what clones share.
func (t *tally) change(domain, by int32) {
	for i := range t.changes {
		if t.changes[i].domain == domain {
			t.changes[i].by += by
			return
		}
	}
	t.changes = append(t.changes, domainChange{domain, by})
}

func (t *tally) clone() tally {
	c := *t
	c.changes = slices.Clone(t.changes)
	return c
}

func cloneTallies(in []tally) []tally {
	out := make([]tally, len(in))
	for i := range in {
		out[i] = in[i].clone()
	}
	return out
}

// tallyOf returns the tally of a topology, and adds it if there is none.
func tallyOf(tallies *[]tally, t *framework.Topology) *tally {
	for i := range *tallies {
		if (*tallies)[i].topology == t {
			return &(*tallies)[i]
		}
	}
	*tallies = append(*tallies, newTally(t))
	return &(*tallies)[len(*tallies)-1]
}

// scope tells in which namespaces the terms of one pod look. Unlike those of pods on nodes, a selector of namespaces
// finds only namespaces that exist.
type scope struct{ cluster framework.Cluster }

func (s scope) sees(t *framework.Term, namespace string) bool {
	if slices.Contains(t.Namespaces, namespace) || t.NamespaceSelector.Empty() {
		return true
	}
	if namesOnly(t.NamespaceSelector) {
		return false
	}
	of := s.cluster.NamespaceLabels(namespace)
	return of != nil && t.NamespaceSelector.Matches(of)
}

func (s scope) matches(t *framework.Term, namespace string, podLabels labels.Set) bool {
	return t.Selector.Matches(podLabels) && s.sees(t, namespace)
}

// matchesAll tells whether pods match each of the terms, of which there must be one.
func (s scope) matchesAll(terms []framework.Term, namespace string, podLabels labels.Set) bool {
	for i := range terms {
		if !s.matches(&terms[i], namespace, podLabels) {
			return false
		}
	}
	return len(terms) > 0
}

// classes calls f for the classes in the namespaces of a term.
func (s scope) classes(x *framework.Index, t *framework.Term, f func(*framework.Class)) {
	if namesOnly(t.NamespaceSelector) {
		for _, ns := range t.Namespaces {
			if ns != "" {
				x.Classes(ns, f)
			}
		}
		return
	}
	x.Namespaces(func(ns string) {
		if s.sees(t, ns) {
			x.Classes(ns, f)
		}
	})
}

// namesOnly tells whether a selector of namespaces finds none.
func namesOnly(s labels.Selector) bool {
	_, selectable := s.Requirements()
	return !selectable
}
