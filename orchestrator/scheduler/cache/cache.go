package cache

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/node/topology"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

type placed struct {
	*framework.PodInfo
	node    string
	assumed bool
}

// Cache are the nodes and the pods on them.
type Cache struct {
	nodes   map[string]*framework.NodeInfo
	pods    map[types.UID]*placed
	assumed int
	zones   zones
	// changed are the nodes that differ from the snapshot.
	changed map[string]struct{}
	// rearranged is set if there are other nodes than in the snapshot.
	rearranged bool
	generation int64
}

// New makes an empty cache.
func New() *Cache {
	return &Cache{nodes: map[string]*framework.NodeInfo{}, pods: map[types.UID]*placed{}, changed: map[string]struct{}{}}
}

// SetNode adds or replaces a node.
func (c *Cache) SetNode(node *v1.Node) {
	n := c.nodes[node.Name]
	if n == nil {
		n = framework.NewNodeInfo(nil)
		c.nodes[node.Name] = n
	}
	old := n.Node()
	n.SetNode(node)
	c.touch(node.Name, n)
	switch zone := topology.GetZoneKey(node); {
	case old == nil:
		c.zones.add(zone, node.Name)
		c.rearranged = true
	case topology.GetZoneKey(old) != zone:
		c.zones.remove(topology.GetZoneKey(old), node.Name)
		c.zones.add(zone, node.Name)
		c.rearranged = true
	}
}

// RemoveNode forgets a node. Pods that are known on it are kept until they are removed, too.
func (c *Cache) RemoveNode(name string) {
	n := c.nodes[name]
	if n == nil || n.Node() == nil {
		return
	}
	c.zones.remove(topology.GetZoneKey(n.Node()), name)
	c.rearranged = true
	n.SetNode(nil)
	c.touch(name, n)
	c.drop(name, n)
}

// SetPod adds a pod to its node or replaces it, which confirms an assumption.
func (c *Cache) SetPod(pod *v1.Pod) { c.put(framework.NewPodInfo(pod), pod.Spec.NodeName, false) }

// Assume puts a pod on a node ahead of its binding. It returns the pod as it will be then.
func (c *Cache) Assume(pod *framework.PodInfo, node string) (*v1.Pod, error) {
	if p := c.pods[pod.UID()]; p != nil {
		return nil, fmt.Errorf("pod %s (%s) is already on node %s", pod.Name(), pod.UID(), p.node)
	}
	bound, info := *pod.Pod, *pod
	bound.Spec.NodeName = node
	info.Pod = &bound
	c.put(&info, node, true)
	return &bound, nil
}

// Forget takes back an assumption. Pods that the API server has on a node stay there.
func (c *Cache) Forget(uid types.UID) bool {
	if !c.IsAssumed(uid) {
		return false
	}
	c.RemovePod(uid)
	return true
}

// RemovePod takes a pod off its node.
func (c *Cache) RemovePod(uid types.UID) bool {
	p := c.pods[uid]
	if p == nil {
		return false
	}
	delete(c.pods, uid)
	if p.assumed {
		c.assumed--
	}
	n := c.nodes[p.node]
	n.RemovePod(uid)
	c.touch(p.node, n)
	c.drop(p.node, n)
	return true
}

// IsAssumed tells whether a pod is on a node by assumption only.
func (c *Cache) IsAssumed(uid types.UID) bool {
	p := c.pods[uid]
	return p != nil && p.assumed
}

// Pod returns what is known of a pod on a node, and the node, or nil.
func (c *Cache) Pod(uid types.UID) (*framework.PodInfo, string) {
	p := c.pods[uid]
	if p == nil {
		return nil, ""
	}
	return p.PodInfo, p.node
}

// Sizes are the numbers of nodes, of pods on nodes, and of those that are assumed.
func (c *Cache) Sizes() (nodes, pods, assumed int) { return c.zones.count, len(c.pods), c.assumed }

func (c *Cache) put(pod *framework.PodInfo, node string, assumed bool) {
	c.RemovePod(pod.UID())
	n := c.nodes[node]
	if n == nil {
		n = framework.NewNodeInfo(nil)
		c.nodes[node] = n
	}
	n.AddPod(pod)
	c.pods[pod.UID()] = &placed{PodInfo: pod, node: node, assumed: assumed}
	if assumed {
		c.assumed++
	}
	c.touch(node, n)
}

func (c *Cache) touch(name string, n *framework.NodeInfo) {
	c.generation++
	n.Generation = c.generation
	c.changed[name] = struct{}{}
}

// drop forgets the pods' side of a node that is gone.
func (c *Cache) drop(name string, n *framework.NodeInfo) {
	if n.Node() == nil && len(n.Pods) == 0 {
		delete(c.nodes, name)
	}
}

// Update brings a snapshot up to the cache.
func (c *Cache) Update(s *framework.Snapshot) {
	if c.rearranged {
		s.Arrange(c.zones.list(), func(name string) *framework.NodeInfo {
			delete(c.changed, name)
			return c.nodes[name].Clone()
		})
		c.rearranged = false
	}
	for name := range c.changed {
		if n := c.nodes[name]; n != nil && n.Node() != nil {
			s.Replace(n.Clone())
		}
	}
	clear(c.changed)
	s.Tidy()
}

// zones lists nodes of all zones in turn.
type zones struct {
	names []string
	nodes map[string][]string
	count int
}

func (z *zones) add(zone, node string) {
	if z.nodes == nil {
		z.nodes = map[string][]string{}
	}
	if _, known := z.nodes[zone]; !known {
		z.names = append(z.names, zone)
	}
	z.nodes[zone] = append(z.nodes[zone], node)
	z.count++
}

func (z *zones) remove(zone, node string) {
	in := z.nodes[zone]
	i := slices.Index(in, node)
	if i < 0 {
		return
	}
	z.count--
	if len(in) == 1 {
		delete(z.nodes, zone)
		z.names = slices.DeleteFunc(z.names, func(n string) bool { return n == zone })
		return
	}
	z.nodes[zone] = slices.Delete(in, i, i+1)
}

func (z *zones) list() []string {
	out := make([]string, 0, z.count)
	for row := 0; len(out) < z.count; row++ {
		for _, zone := range z.names {
			if in := z.nodes[zone]; row < len(in) {
				out = append(out, in[row])
			}
		}
	}
	return out
}
