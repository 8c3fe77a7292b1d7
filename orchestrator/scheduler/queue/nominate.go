package queue

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// nominations are pods that are promised a node.
type nominations struct {
	byNode map[string][]*framework.PodInfo
	nodes  map[types.UID]string
}

func newNominations() nominations {
	return nominations{byNode: map[string][]*framework.PodInfo{}, nodes: map[types.UID]string{}}
}

func (n *nominations) set(p *framework.PodInfo, node string) {
	n.drop(p.UID())
	if node == "" {
		return
	}
	n.nodes[p.UID()] = node
	n.byNode[node] = append(n.byNode[node], p)
}

func (n *nominations) drop(uid types.UID) {
	node, ok := n.nodes[uid]
	if !ok {
		return
	}
	delete(n.nodes, uid)
	left := slices.DeleteFunc(n.byNode[node], func(p *framework.PodInfo) bool { return p.UID() == uid })
	if len(left) == 0 {
		delete(n.byNode, node)
		return
	}
	n.byNode[node] = left
}

// follow brings a nomination up to an update of the pod. One that only the queue knows yet outlives updates that say
// nothing about it.
func (n *nominations) follow(old *v1.Pod, now *framework.PodInfo) {
	node := now.Pod.Status.NominatedNodeName
	if node == "" && (old == nil || old.Status.NominatedNodeName == "") {
		node = n.nodes[now.UID()]
	}
	n.set(now, node)
}

// Nominate promises a node to a pod, or takes the promise back if node is "".
func (q *Queue) Nominate(p *framework.PodInfo, node string) { q.nominated.set(p, node) }

// Nominated are the pods with a nomination, by node. Only to be read, and until the next change.
func (q *Queue) Nominated() map[string][]*framework.PodInfo { return q.nominated.byNode }

// NominatedNode is the node that a pod is promised, or "".
func (q *Queue) NominatedNode(uid types.UID) string { return q.nominated.nodes[uid] }

// Unnominate forgets a pod's nomination.
func (q *Queue) Unnominate(uid types.UID) { q.nominated.drop(uid) }
