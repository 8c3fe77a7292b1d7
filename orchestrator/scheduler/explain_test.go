package scheduler_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// cordon keeps pods off unschedulable nodes; room scores nodes by their free CPU; evict proposes to remove all pods.
type cordon struct{}

func (cordon) Name() string { return config.NodeUnschedulable }

func (cordon) Filter(_ *framework.CycleState, _ *framework.PodInfo, n *framework.NodeInfo) *framework.Status {
	if n.Node().Spec.Unschedulable {
		return framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) were unschedulable")
	}
	return nil
}

type room struct{}

func (room) Name() string { return "Room" }

func (room) Score(_ *framework.CycleState, _ *framework.PodInfo, n *framework.NodeInfo) (int64, *framework.Status) {
	return n.Allocatable.MilliCPU - n.Requested.MilliCPU, nil
}

func (room) NormalizeScore(_ *framework.CycleState, _ *framework.PodInfo, scores []int64) *framework.Status {
	for i := range scores {
		scores[i] /= 100
	}
	return nil
}

type evict struct{}

func (evict) Name() string { return config.DefaultPreemption }

func (evict) PostFilter(_ context.Context, _ framework.Runner, _ *framework.CycleState, _ *framework.PodInfo, s *framework.Snapshot, _ []*framework.Status) (*framework.Preemption, *framework.Status) {
	for _, n := range s.Nodes() {
		if len(n.Pods) > 0 && !n.Node().Spec.Unschedulable {
			return &framework.Preemption{Node: n.Name(), Victims: framework.Victims{Pods: n.Pods}}, nil
		}
	}
	return &framework.Preemption{}, framework.NewStatus(framework.Unschedulable, "preemption: nobody to evict.")
}

func builtIn(client binder) func(*config.Profile, string) (framework.Plugin, error) {
	return func(_ *config.Profile, name string) (framework.Plugin, error) {
		for _, p := range []framework.Plugin{sorter{}, fit{}, client, cordon{}, room{}, evict{}} {
			if p.Name() == name {
				return p, nil
			}
		}
		return nil, fmt.Errorf("no plugin %q", name)
	}
}

func situation(t *testing.T, pod *v1.Pod) scheduler.Situation {
	cordoned := newNode("n3", "500m")
	cordoned.Spec.Unschedulable = true
	other := newPod("other", "600m")
	other.Spec.NodeName = "n2"
	done := newPod("done", "2")
	done.Spec.NodeName, done.Status.Phase = "n2", v1.PodSucceeded
	return scheduler.Situation{
		Pod: pod, Nodes: []*v1.Node{newNode("n1", "1"), newNode("n2", "2"), cordoned}, Pods: []*v1.Pod{pod, other, done},
		Configuration: plain(t, config.NodeUnschedulable, "Room", config.DefaultPreemption), Plugin: builtIn(binder{}),
	}
}

func TestExplainPodThatFits(t *testing.T) {
	pod := newPod("web", "800m")
	pod.Spec.NodeName = "n1"
	e, err := scheduler.Explain(t.Context(), situation(t, pod))
	require.NoError(t, err)
	score := func(raw, normalized int64) []scheduler.ScoreExplanation {
		return []scheduler.ScoreExplanation{{Plugin: "Room", Raw: raw, Normalized: normalized, Weight: 1}}
	}
	require.Equal(t, &scheduler.Explanation{
		Pod: "default/web", Profile: "default-scheduler", Bound: "n1", Best: []string{"n2"},
		Nodes: []scheduler.NodeExplanation{
			{Name: "n1", Fits: true, Scores: score(1000, 10), Total: 10},
			{Name: "n2", Fits: true, Scores: score(1400, 14), Total: 14},
			{Name: "n3", Rejections: []scheduler.Verdict{
				{Plugin: config.NodeResourcesFit, Code: "Unschedulable", Reasons: []string{"Insufficient cpu"}},
				{Plugin: config.NodeUnschedulable, Code: "UnschedulableAndUnresolvable", Reasons: []string{"node(s) were unschedulable"}},
			}},
		},
	}, e)
	var b bytes.Buffer
	require.NoError(t, e.Write(&b))
	require.Equal(t, `Pod:        default/web
Profile:    default-scheduler
Node:       n1
Best node:  n2

NODE  FITS  SCORE  WHY
n2    yes   14     Room 14*1
n1    yes   10     Room 10*1
n3    no           NodeResourcesFit: Insufficient cpu; NodeUnschedulable: node(s) were unschedulable
`, b.String())
}

func TestExplainPodThatDoesNotFit(t *testing.T) {
	e, err := scheduler.Explain(t.Context(), situation(t, newPod("web", "1500m")))
	require.NoError(t, err)
	require.Equal(t, "0/3 nodes are available: 3 Insufficient cpu.", e.Message)
	require.Empty(t, e.Best)
	require.Equal(t, &scheduler.Eviction{Node: "n2", Victims: []string{"default/other"}}, e.Preemption)
	var b bytes.Buffer
	require.NoError(t, e.Write(&b))
	require.Contains(t, b.String(), "Preemption:  on n2 of default/other\n")

	in := situation(t, newPod("web", "1500m"))
	in.Nodes = nil
	e, err = scheduler.Explain(t.Context(), in)
	require.NoError(t, err)
	require.Equal(t, "no nodes available to schedule pods", e.Message)
	in.Pod.Spec.SchedulerName = "mine"
	_, err = scheduler.Explain(t.Context(), in)
	require.EqualError(t, err, `explain: pod default/web is for scheduler "mine", of which there is no profile`)
}
