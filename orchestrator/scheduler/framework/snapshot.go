package framework

import (
	policyv1 "k8s.io/api/policy/v1"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

// Cluster is what plugins want to know besides nodes and pods. It must not change during an attempt.
type Cluster interface {
	// NamespaceLabels returns nil if there is no such namespace.
	NamespaceLabels(namespace string) labels.Set
	// OwnerSelector selects the pods that belong together with a pod: those of its services and of its controller. It
	// is empty if there are none.
	OwnerSelector(pod *v1.Pod) labels.Selector
	// Budgets returns all disruption budgets.
	Budgets() []*policyv1.PodDisruptionBudget
	// Storage is what is known of claims and volumes. It is never nil.
	Storage() *storage.Table
}

// Snapshot is the state of the cluster that one attempt sees.
type Snapshot struct {
	// Cluster is never nil.
	Cluster Cluster
	// Nominated are the pods that wait for room on a node which they made by preemption, by node.
	Nominated map[string][]*PodInfo
	nodes     []*NodeInfo
	positions map[string]int
	index     *Index
}

// NewSnapshot makes a snapshot of nodes. It gives them their slots.
func NewSnapshot(c Cluster, nodes ...*NodeInfo) *Snapshot {
	if c == nil {
		c = NoCluster{}
	}
	s := &Snapshot{Cluster: c, positions: map[string]int{}, index: newIndex()}
	for _, n := range nodes {
		s.positions[n.Name()] = len(s.nodes)
		s.nodes = append(s.nodes, n)
		s.index.update(nil, n)
	}
	return s
}

// Nodes are in the order in which they are tried. Only to be read.
func (s *Snapshot) Nodes() []*NodeInfo { return s.nodes }

// Node returns nil if there is no such node.
func (s *Snapshot) Node(name string) *NodeInfo {
	if i, ok := s.positions[name]; ok {
		return s.nodes[i]
	}
	return nil
}

// Position is the node's place in Nodes, or -1.
func (s *Snapshot) Position(name string) int {
	if i, ok := s.positions[name]; ok {
		return i
	}
	return -1
}

// Index finds pods by what they have in common.
func (s *Snapshot) Index() *Index { return s.index }

// Replace puts newer information in the place of a node that the snapshot has, and tells whether it has it.
func (s *Snapshot) Replace(n *NodeInfo) bool {
	i, ok := s.positions[n.Name()]
	if !ok {
		return false
	}
	s.index.update(s.nodes[i], n)
	s.nodes[i] = n
	return true
}

// Arrange sets which nodes there are and in which order. Those that the snapshot does not have yet are taken from
// fresh.
func (s *Snapshot) Arrange(names []string, fresh func(name string) *NodeInfo) {
	nodes := make([]*NodeInfo, 0, len(names))
	positions := make(map[string]int, len(names))
	for _, name := range names {
		positions[name] = len(nodes)
		if i, ok := s.positions[name]; ok {
			nodes = append(nodes, s.nodes[i])
			continue
		}
		nodes = append(nodes, fresh(name))
	}
	for name, i := range s.positions {
		if _, stays := positions[name]; !stays {
			s.index.update(s.nodes[i], nil)
		}
	}
	for _, n := range nodes {
		if _, had := s.positions[n.Name()]; !had {
			s.index.update(nil, n)
		}
	}
	s.nodes, s.positions = nodes, positions
}

// Tidy bounds what the index remembers; to be called between attempts.
func (s *Snapshot) Tidy() { s.index.forget() }

// NoCluster is a Cluster without namespaces, owners, budgets and storage.
type NoCluster struct{}

// NamespaceLabels returns nil.
func (NoCluster) NamespaceLabels(string) labels.Set { return nil }

// OwnerSelector selects nothing.
func (NoCluster) OwnerSelector(*v1.Pod) labels.Selector { return labels.NewSelector() }

// Budgets returns nil.
func (NoCluster) Budgets() []*policyv1.PodDisruptionBudget { return nil }

// Storage returns an empty table.
func (NoCluster) Storage() *storage.Table { return storage.New() }
