package framework

import "slices"

// NoDomain is the domain of a node without the topology's label.
const NoDomain int32 = -1

// Topology numbers the domains of one node label. Numbers of domains without nodes are used again.
type Topology struct {
	Key     string
	domains []int32 // by slot
	values  []string
	nodes   []int32 // by domain
	numbers map[string]int32
	free    []int32
	missing int
}

// Domain returns the domain that a slot lies in, or NoDomain.
func (t *Topology) Domain(slot int32) int32 {
	if int(slot) >= len(t.domains) || slot < 0 {
		return NoDomain
	}
	return t.domains[slot]
}

// Len is one more than the greatest number of a domain.
func (t *Topology) Len() int { return len(t.values) }

// Nodes is the number of nodes in a domain; it may be 0.
func (t *Topology) Nodes(domain int32) int32 { return t.nodes[domain] }

// Complete tells whether every node has the label.
func (t *Topology) Complete() bool { return t.missing == 0 }

func newTopology(key string, slots []*NodeInfo) *Topology {
	t := &Topology{Key: key, numbers: map[string]int32{}}
	for slot, n := range slots {
		if n != nil {
			t.put(int32(slot), n)
		}
	}
	return t
}

// value returns the node's label, and whether it has it.
func (t *Topology) value(n *NodeInfo) (string, bool) {
	if n.node == nil {
		return "", false
	}
	v, ok := n.node.Labels[t.Key]
	return v, ok
}

func (t *Topology) put(slot int32, n *NodeInfo) {
	for int(slot) >= len(t.domains) {
		t.domains = append(t.domains, NoDomain)
	}
	v, ok := t.value(n)
	if !ok {
		t.domains[slot] = NoDomain
		t.missing++
		return
	}
	d, known := t.numbers[v]
	if !known {
		if last := len(t.free) - 1; last >= 0 {
			d = t.free[last]
			t.free = t.free[:last]
			t.values[d] = v
		} else {
			d = int32(len(t.values))
			t.values = append(t.values, v)
			t.nodes = append(t.nodes, 0)
		}
		t.numbers[v] = d
	}
	t.domains[slot] = d
	t.nodes[d]++
}

func (t *Topology) drop(slot int32) {
	d := t.domains[slot]
	t.domains[slot] = NoDomain
	if d == NoDomain {
		t.missing--
		return
	}
	if t.nodes[d]--; t.nodes[d] == 0 {
		delete(t.numbers, t.values[d])
		t.free = append(t.free, d)
	}
}

type domainCounts struct {
	topology *Topology
	counts   []int32
}

// Counter counts pods per slot and, for the topologies that were asked for, per domain.
type Counter struct {
	slots   map[int32]int32
	domains []domainCounts
}

// Empty tells whether nothing is counted.
func (c *Counter) Empty() bool { return len(c.slots) == 0 }

// Slots are the counts per slot, without zeros. Only to be read.
func (c *Counter) Slots() map[int32]int32 { return c.slots }

// Domains are the counts per domain, without the nodes that have none. Only to be read, and until the next change.
func (c *Counter) Domains(t *Topology) []int32 {
	for i := range c.domains {
		if d := &c.domains[i]; d.topology == t {
			d.counts = grown(d.counts, t.Len())
			return d.counts
		}
	}
	counts := make([]int32, t.Len())
	for slot, n := range c.slots {
		if d := t.Domain(slot); d != NoDomain {
			counts[d] += n
		}
	}
	c.domains = append(c.domains, domainCounts{t, counts})
	return counts
}

func (c *Counter) add(slot, n int32) {
	if c.slots == nil {
		c.slots = map[int32]int32{}
	}
	if now := c.slots[slot] + n; now == 0 {
		delete(c.slots, slot)
	} else {
		c.slots[slot] = now
	}
	for i := range c.domains {
		d := &c.domains[i]
		if domain := d.topology.Domain(slot); domain != NoDomain {
			d.counts = grown(d.counts, d.topology.Len())
			d.counts[domain] += n
		}
	}
}

func grown(s []int32, n int) []int32 {
	if len(s) >= n {
		return s
	}
	return append(s, slices.Repeat([]int32{0}, n-len(s))...)
}
