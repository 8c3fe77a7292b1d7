package framework

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeInfo is a node with the sums over the pods on it. Those of a Snapshot are not changed; who wants to try
// something out clones them.
type NodeInfo struct {
	node *v1.Node
	// Slot is the node's number in the Index; a clone has the same.
	Slot int32
	// Generation grows with every change.
	Generation int64
	// Pods are the pods on the node, those with affinity to pods, and those with required anti-affinity.
	Pods                 []*PodInfo
	PodsWithAffinity     []*PodInfo
	PodsWithAntiAffinity []*PodInfo
	Ports                []HostPort
	Requested            Resources
	NonZeroCPU           int64
	NonZeroMemory        int64
	Allocatable          Resources
	// Images are the sizes of the images on the node by each of their names.
	Images map[string]int64
}

// NewNodeInfo makes the information of an empty node.
func NewNodeInfo(node *v1.Node) *NodeInfo {
	n := &NodeInfo{Slot: -1}
	n.SetNode(node)
	return n
}

// Node is nil while pods are known on a node that itself is not.
func (n *NodeInfo) Node() *v1.Node { return n.node }

// Name is the node's name.
func (n *NodeInfo) Name() string { return n.node.Name }

// SetNode replaces the node and keeps the pods.
func (n *NodeInfo) SetNode(node *v1.Node) {
	n.node = node
	if node == nil {
		n.Allocatable, n.Images = Resources{}, nil
		return
	}
	n.Allocatable = NewResources(node.Status.Allocatable)
	n.Images = nil
	for i := range node.Status.Images {
		for _, name := range node.Status.Images[i].Names {
			if n.Images == nil {
				n.Images = make(map[string]int64, len(node.Status.Images))
			}
			n.Images[name] = node.Status.Images[i].SizeBytes
		}
	}
}

// AddPod puts a pod on the node.
func (n *NodeInfo) AddPod(p *PodInfo) {
	n.Pods = append(n.Pods, p)
	if p.HasAffinity() {
		n.PodsWithAffinity = append(n.PodsWithAffinity, p)
	}
	if len(p.Terms.RequiredAntiAffinity) > 0 {
		n.PodsWithAntiAffinity = append(n.PodsWithAntiAffinity, p)
	}
	n.Ports = append(n.Ports, p.Ports...)
	n.count(p, 1)
}

// RemovePod takes a pod from the node and tells whether it was there.
func (n *NodeInfo) RemovePod(uid types.UID) bool {
	i := podIndex(n.Pods, uid)
	if i < 0 {
		return false
	}
	p := n.Pods[i]
	n.Pods = withoutPod(n.Pods, i)
	if j := podIndex(n.PodsWithAffinity, uid); j >= 0 {
		n.PodsWithAffinity = withoutPod(n.PodsWithAffinity, j)
	}
	if j := podIndex(n.PodsWithAntiAffinity, uid); j >= 0 {
		n.PodsWithAntiAffinity = withoutPod(n.PodsWithAntiAffinity, j)
	}
	for _, h := range p.Ports {
		if j := slices.Index(n.Ports, h); j >= 0 {
			n.Ports = slices.Delete(n.Ports, j, j+1)
		}
	}
	n.count(p, -1)
	return true
}

func (n *NodeInfo) count(p *PodInfo, sign int64) {
	n.Requested.Add(&p.Requests, sign)
	n.NonZeroCPU += sign * p.NonZeroCPU
	n.NonZeroMemory += sign * p.NonZeroMemory
}

// Clone copies what AddPod and RemovePod change.
func (n *NodeInfo) Clone() *NodeInfo {
	c := *n
	c.Pods = slices.Clone(n.Pods)
	c.PodsWithAffinity = slices.Clone(n.PodsWithAffinity)
	c.PodsWithAntiAffinity = slices.Clone(n.PodsWithAntiAffinity)
	c.Ports = slices.Clone(n.Ports)
	return &c
}

func podIndex(pods []*PodInfo, uid types.UID) int {
	return slices.IndexFunc(pods, func(p *PodInfo) bool { return p.Pod.UID == uid })
}

// withoutPod keeps the order of the pods before i, which lets the index see cheaply what changed.
func withoutPod(pods []*PodInfo, i int) []*PodInfo {
	last := len(pods) - 1
	pods[i] = pods[last]
	pods[last] = nil
	return pods[:last]
}
