package core

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// maxPermitWait bounds how long a Permit plugin may let a pod wait.
const maxPermitWait = 15 * time.Minute

// Placement is a pod with the node that was chosen for it.
type Placement struct {
	Profile *Profile
	State   *framework.CycleState
	// Pod has the node's name already.
	Pod  *v1.Pod
	Node string
}

// Reserve asks all Reserve plugins, and takes back what they did if one refuses.
func (p *Placement) Reserve(ctx context.Context) *framework.Status {
	for _, pl := range p.Profile.reserve {
		st := pl.Reserve(ctx, p.State, p.Pod, p.Node)
		if st.IsSuccess() {
			continue
		}
		p.Unreserve(ctx)
		if st.IsRejected() {
			return st.By(pl.Name())
		}
		return framework.AsStatus(fmt.Errorf("running Reserve plugin %q: %w", pl.Name(), st.Err()))
	}
	return nil
}

// Unreserve takes back what Reserve plugins did, the last one first.
func (p *Placement) Unreserve(ctx context.Context) {
	for _, pl := range slices.Backward(p.Profile.reserve) {
		pl.Unreserve(ctx, p.State, p.Pod, p.Node)
	}
}

// Permit asks the Permit plugins. The pod has to wait for those in waits, each at most so long.
func (p *Placement) Permit(ctx context.Context) (waits map[string]time.Duration, status *framework.Status) {
	for _, pl := range p.Profile.permit {
		st, d := pl.Permit(ctx, p.State, p.Pod, p.Node)
		switch {
		case st.IsSuccess():
		case st.IsRejected():
			return nil, st.By(pl.Name())
		case st.IsWait():
			if waits == nil {
				waits = map[string]time.Duration{}
			}
			waits[pl.Name()] = min(d, maxPermitWait)
		default:
			return nil, framework.AsStatus(fmt.Errorf("running Permit plugin %q: %w", pl.Name(), st.Err())).By(pl.Name())
		}
	}
	return waits, nil
}

// Prepare prepares the node for the pod. It takes as long as plugins wait for something.
func (p *Placement) Prepare(ctx context.Context) *framework.Status {
	for _, pl := range p.Profile.preBind {
		if st := pl.PreBind(ctx, p.State, p.Pod, p.Node); !st.IsSuccess() && !st.IsSkip() {
			if st.IsRejected() {
				return st.By(pl.Name())
			}
			return framework.AsStatus(fmt.Errorf("running PreBind plugin %q: %w", pl.Name(), st.Err()))
		}
	}
	return nil
}

// Bind binds the pod: by the first extender that binds, or by the first plugin that does.
func (p *Placement) Bind(ctx context.Context) *framework.Status {
	for _, e := range p.Profile.extenders {
		if !e.Verbs().Bind || !e.Interested(p.Pod) {
			continue
		}
		err := e.Bind(ctx, &v1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Pod.Namespace, Name: p.Pod.Name, UID: p.Pod.UID},
			Target:     v1.ObjectReference{Kind: "Node", Name: p.Node},
		})
		if err == nil || !e.Ignorable() {
			return framework.AsStatus(err)
		}
	}
	for _, pl := range p.Profile.bind {
		st := pl.Bind(ctx, p.State, p.Pod, p.Node)
		switch {
		case st.IsSkip():
		case st.IsSuccess():
			return nil
		case st.IsRejected():
			return st.By(pl.Name())
		default:
			return framework.AsStatus(fmt.Errorf("running Bind plugin %q: %w", pl.Name(), st.Err()))
		}
	}
	return framework.AsStatus(fmt.Errorf("no plugin bound pod %s/%s", p.Pod.Namespace, p.Pod.Name))
}

// Bound tells the PostBind plugins that the pod was bound.
func (p *Placement) Bound(ctx context.Context) {
	for _, pl := range p.Profile.postBind {
		pl.PostBind(ctx, p.State, p.Pod, p.Node)
	}
}
