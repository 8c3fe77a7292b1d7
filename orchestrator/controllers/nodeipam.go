package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"sync"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// NodeRange is a range of pod addresses of the cluster, and how many bits the prefix of a node's part of it has.
type NodeRange struct {
	Cluster netip.Prefix
	Bits    int
}

// nodeIPAM gives every node its part of each range.
type nodeIPAM struct {
	*loop
	client kubernetes.Interface
	nodes  cache.Indexer
	events record.EventRecorder
	parts  []*parts

	mu   sync.Mutex
	held map[string][]netip.Prefix // by node
}

// NewNodeIPAM makes the controller that gives nodes their ranges of pod addresses: one range, or one of each family.
func NewNodeIPAM(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, lg *zap.Logger, ranges ...NodeRange) (Controller, error) {
	var all []*parts
	for _, r := range ranges {
		p, err := newParts(r)
		if err != nil {
			return nil, fmt.Errorf("node-ipam: %w", err)
		}
		all = append(all, p)
	}
	ni := i.Core().V1().Nodes().Informer()
	c := &nodeIPAM{loop: newLoop("node-ipam", lg), client: client, nodes: ni.GetIndexer(), events: events, parts: all, held: map[string][]netip.Prefix{}}
	c.sync = c.syncOne
	return c, c.watch(ni, objects(func(o *corev1.Node) { c.add(o) }))
}

// Run works until ctx ends. First of all it notes what nodes have already.
func (c *nodeIPAM) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return ctx.Err()
	}
	for _, x := range c.nodes.List() {
		c.note(x.(*corev1.Node))
	}
	return c.run(ctx, 1)
}

// note marks the ranges that a node has as taken.
func (c *nodeIPAM) note(n *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held[n.Name]) > 0 {
		return
	}
	for _, s := range n.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			continue
		}
		for _, x := range c.parts {
			if x.take(p) {
				c.held[n.Name] = append(c.held[n.Name], p)
			}
		}
	}
}

func (c *nodeIPAM) release(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.held[node] {
		for _, x := range c.parts {
			x.release(p)
		}
	}
	delete(c.held, node)
}

func (c *nodeIPAM) syncOne(ctx context.Context, name string) error {
	x, exists, err := c.nodes.GetByKey(name)
	switch {
	case err != nil:
		return err
	case !exists:
		c.release(name)
		return nil
	}
	n := x.(*corev1.Node)
	if len(n.Spec.PodCIDRs) > 0 {
		c.note(n)
		return nil
	}
	ranges, err := c.allocate(name)
	if err != nil {
		c.events.Eventf(n, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
		return err
	}
	b, err := json.Marshal(map[string]any{"spec": map[string]any{"podCIDR": ranges[0].String(), "podCIDRs": ranges}})
	if err != nil {
		return err
	}
	if _, err = c.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, b, metav1.PatchOptions{}); err != nil {
		c.release(name)
		return ignoreMissing(err)
	}
	return nil
}

func (c *nodeIPAM) allocate(node string) ([]netip.Prefix, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held := c.held[node]; len(held) > 0 { // from an attempt whose end is not seen yet
		return held, nil
	}
	var out []netip.Prefix
	for _, x := range c.parts {
		p, err := x.next()
		if err != nil {
			for i, p := range out {
				c.parts[i].release(p)
			}
			return nil, err
		}
		out = append(out, p)
	}
	c.held[node] = out
	return out, nil
}

// parts are the equal parts of a range.
type parts struct {
	cluster netip.Prefix
	bits    int
	count   uint64
	taken   map[uint64]bool
	from    uint64 // where to look next: a part that was given back rests as long as possible
}

var errNoRange = errors.New("all ranges of pod addresses are taken")

func newParts(r NodeRange) (*parts, error) {
	width := r.Bits - r.Cluster.Bits()
	if !r.Cluster.IsValid() || width < 0 || width > 16 || r.Bits > r.Cluster.Addr().BitLen() {
		return nil, fmt.Errorf("a node's prefix of %d bits does not fit into %s, or into it more than 65536 times", r.Bits, r.Cluster)
	}
	return &parts{cluster: r.Cluster.Masked(), bits: r.Bits, count: 1 << width, taken: map[uint64]bool{}}, nil
}

func (p *parts) at(i uint64) netip.Prefix {
	b := p.cluster.Addr().AsSlice()
	n := new(big.Int).SetBytes(b)
	n.Add(n, new(big.Int).Lsh(new(big.Int).SetUint64(i), uint(len(b)*8-p.bits)))
	n.FillBytes(b)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.bits)
}

func (p *parts) index(x netip.Prefix) (uint64, bool) {
	if x.Bits() != p.bits || !p.cluster.Contains(x.Addr()) {
		return 0, false
	}
	b := x.Masked().Addr().AsSlice()
	n := new(big.Int).Sub(new(big.Int).SetBytes(b), new(big.Int).SetBytes(p.cluster.Addr().AsSlice()))
	return n.Rsh(n, uint(len(b)*8-p.bits)).Uint64(), true
}

func (p *parts) next() (netip.Prefix, error) {
	for range p.count {
		i := p.from
		p.from = (p.from + 1) % p.count
		if !p.taken[i] {
			p.taken[i] = true
			return p.at(i), nil
		}
	}
	return netip.Prefix{}, errNoRange
}

// take marks a part as taken, and says whether it is one.
func (p *parts) take(x netip.Prefix) bool {
	i, ok := p.index(x)
	if ok {
		p.taken[i] = true
	}
	return ok
}

func (p *parts) release(x netip.Prefix) {
	if i, ok := p.index(x); ok {
		delete(p.taken, i)
	}
}
