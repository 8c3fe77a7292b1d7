package framework

import (
	"context"
	"math"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// MaxScore is the best score that a plugin may give a node after normalization.
	MaxScore int64 = 100
	// MinScore is the worst.
	MinScore int64 = 0
	// MaxTotalScore is the greatest sum of weighted scores.
	MaxTotalScore int64 = math.MaxInt64
)

// Plugin has a name that is unique within a profile.
type Plugin interface{ Name() string }

// Requeuer is implemented by plugins that reject pods: it says what may lift the rejection. A pod that was rejected
// by a plugin without it is tried again after any event.
type Requeuer interface {
	Plugin
	Hints() []Hint
}

// PreEnqueue decides whether a pod may enter the active queue.
type PreEnqueue interface {
	Plugin
	PreEnqueue(ctx context.Context, pod *v1.Pod) *Status
}

// QueueSort orders the active queue. A profile has exactly one, and all profiles have the same.
type QueueSort interface {
	Plugin
	Less(a, b *QueuedPod) bool
}

// PreFilter prepares for Filter.
type PreFilter interface {
	Plugin
	// PreFilter may reject the pod for all nodes, or pass with Skip: then the plugin's Filter is not asked. With nodes
	// that are not nil, only those need to be looked at.
	PreFilter(state *CycleState, pod *PodInfo, s *Snapshot) (nodes map[string]struct{}, status *Status)
}

// PodChanges is implemented by PreFilter plugins whose data depends on the pods on nodes. It keeps the data in state
// up with a pod that is added to, or removed from, a node (to which that already happened) for the sake of argument.
type PodChanges interface {
	AddPod(state *CycleState, pod, added *PodInfo, node *NodeInfo) *Status
	RemovePod(state *CycleState, pod, removed *PodInfo, node *NodeInfo) *Status
}

// Filter decides whether a pod fits onto a node. It is called from several goroutines.
type Filter interface {
	Plugin
	Filter(state *CycleState, pod *PodInfo, node *NodeInfo) *Status
}

// PostFilter is asked what to do about a pod that fits nowhere. Statuses are by position in the snapshot; nil are
// those that were not looked at.
type PostFilter interface {
	Plugin
	PostFilter(ctx context.Context, r Runner, state *CycleState, pod *PodInfo, s *Snapshot, statuses []*Status) (*Preemption, *Status)
}

// PreScore prepares for Score with the nodes that fit. With Skip the plugin's Score is not asked.
type PreScore interface {
	Plugin
	PreScore(state *CycleState, pod *PodInfo, s *Snapshot, nodes []*NodeInfo) *Status
}

// Score ranks a node that fits. It is called from several goroutines.
type Score interface {
	Plugin
	Score(state *CycleState, pod *PodInfo, node *NodeInfo) (int64, *Status)
}

// NormalizeScore brings the scores of a plugin's Score into MinScore..MaxScore, in place.
type NormalizeScore interface {
	NormalizeScore(state *CycleState, pod *PodInfo, scores []int64) *Status
}

// Reserve sets something aside for a pod whose node is chosen.
type Reserve interface {
	Plugin
	Reserve(ctx context.Context, state *CycleState, pod *v1.Pod, node string) *Status
	// Unreserve takes it back. It must be possible to call it twice, and without Reserve.
	Unreserve(ctx context.Context, state *CycleState, pod *v1.Pod, node string)
}

// Permit may reject a pod, or let it wait for some time before it is bound.
type Permit interface {
	Plugin
	Permit(ctx context.Context, state *CycleState, pod *v1.Pod, node string) (*Status, time.Duration)
}

// PreBind prepares a node for a pod.
type PreBind interface {
	Plugin
	PreBind(ctx context.Context, state *CycleState, pod *v1.Pod, node string) *Status
}

// Bind binds a pod, or leaves it to the next plugin with Skip.
type Bind interface {
	Plugin
	Bind(ctx context.Context, state *CycleState, pod *v1.Pod, node string) *Status
}

// PostBind is told that a pod was bound.
type PostBind interface {
	Plugin
	PostBind(ctx context.Context, state *CycleState, pod *v1.Pod, node string)
}

// Runner asks the filters of a profile; PostFilter plugins try things out with it.
type Runner interface {
	// Fits tells whether the pod fits onto a node, with and without the pods that are nominated to it.
	Fits(state *CycleState, pod *PodInfo, s *Snapshot, node *NodeInfo) *Status
	// Added and Removed keep state up with a change of pods that was made to a clone of a node.
	Added(state *CycleState, pod, added *PodInfo, node *NodeInfo) *Status
	Removed(state *CycleState, pod, removed *PodInfo, node *NodeInfo) *Status
	// Extenders that may object to victims.
	Extenders() []Extender
	// Parallel calls f for 0..n-1 from several goroutines until it is done or f returned false.
	Parallel(n int, f func(i int) bool)
}

// Victims are pods that have to go from a node, the most important first.
type Victims struct {
	Pods []*PodInfo
	// Violations is the number of them whose disruption budget is broken by it.
	Violations int
}

// Preemption is what PostFilter proposes.
type Preemption struct {
	// Node is where the pod will fit once the victims are gone. It is "" if a nomination is to be given up.
	Node string
	Victims
}

// QueuedPod is a pod that waits, with its history.
type QueuedPod struct {
	*PodInfo
	// Added is when the pod came into the queue the last time.
	Added time.Time
	// FirstTried is zero until the first attempt.
	FirstTried time.Time
	Attempts   int
	// Rejections and Errors count attempts in a row that ended so; the back-off grows with them.
	Rejections int
	Errors     int
	// RejectedBy are the plugins that rejected the pod in the last attempt.
	RejectedBy map[string]struct{}
	// PendingBy are those of them that wait for something outside.
	PendingBy map[string]struct{}
	// GatedBy is the plugin that keeps the pod out of the active queue.
	GatedBy string
	// Backoff is when the pod's back-off ends; zero if it has none.
	Backoff time.Time
}

// UIDs lists the identities of pods, for logs and tests.
func UIDs(pods []*PodInfo) []types.UID {
	out := make([]types.UID, len(pods))
	for i, p := range pods {
		out[i] = p.UID()
	}
	return out
}
