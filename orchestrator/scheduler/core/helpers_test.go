package core

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// The plugins of these tests do what their functions say; each has the extension points that its type embeds.
type named string

func (n named) Name() string { return string(n) }

type sorter struct{ named }

func (sorter) Less(a, b *framework.QueuedPod) bool { return a.Priority > b.Priority }

type binder struct {
	named
	status *framework.Status
	calls  *[]string
}

func (b binder) Bind(_ context.Context, _ *framework.CycleState, pod *v1.Pod, node string) *framework.Status {
	note(b.calls, "bind "+b.Name()+" "+pod.Name+" "+node)
	return b.status
}

func note(calls *[]string, s string) {
	if calls != nil {
		*calls = append(*calls, s)
	}
}

type filter struct {
	named
	f func(pod *framework.PodInfo, n *framework.NodeInfo) *framework.Status
}

func (p filter) Filter(_ *framework.CycleState, pod *framework.PodInfo, n *framework.NodeInfo) *framework.Status {
	return p.f(pod, n)
}

type preFilter struct {
	filter
	nodes  map[string]struct{}
	status *framework.Status
}

func (p preFilter) PreFilter(*framework.CycleState, *framework.PodInfo, *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	return p.nodes, p.status
}

type scorer struct {
	named
	f func(n *framework.NodeInfo) (int64, *framework.Status)
	// scale is what normalization multiplies with.
	scale int64
	pre   *framework.Status
}

func (p scorer) PreScore(*framework.CycleState, *framework.PodInfo, *framework.Snapshot, []*framework.NodeInfo) *framework.Status {
	return p.pre
}

func (p scorer) Score(_ *framework.CycleState, _ *framework.PodInfo, n *framework.NodeInfo) (int64, *framework.Status) {
	return p.f(n)
}

func (p scorer) NormalizeScore(_ *framework.CycleState, _ *framework.PodInfo, scores []int64) *framework.Status {
	for i := range scores {
		scores[i] *= p.scale
	}
	return nil
}

type postFilter struct {
	named
	proposal *framework.Preemption
	status   *framework.Status
	seen     *[]*framework.Status
}

func (p postFilter) PostFilter(_ context.Context, _ framework.Runner, _ *framework.CycleState, _ *framework.PodInfo, _ *framework.Snapshot, statuses []*framework.Status) (*framework.Preemption, *framework.Status) {
	if p.seen != nil {
		*p.seen = append([]*framework.Status{}, statuses...)
	}
	return p.proposal, p.status
}

type reserver struct {
	named
	status *framework.Status
	calls  *[]string
}

func (p reserver) Reserve(context.Context, *framework.CycleState, *v1.Pod, string) *framework.Status {
	note(p.calls, "reserve "+p.Name())
	return p.status
}

func (p reserver) Unreserve(context.Context, *framework.CycleState, *v1.Pod, string) {
	note(p.calls, "unreserve "+p.Name())
}

type permitter struct {
	named
	status *framework.Status
	wait   time.Duration
}

func (p permitter) Permit(context.Context, *framework.CycleState, *v1.Pod, string) (*framework.Status, time.Duration) {
	return p.status, p.wait
}

// profileOf is a profile of a sorter, a binder and these plugins.
func profileOf(t testing.TB, plugins ...framework.Plugin) *Profile {
	text := ""
	for _, p := range plugins {
		text += fmt.Sprintf("      - {name: %q}\n", p.Name())
	}
	return profileWith(t, "  plugins:\n    multiPoint:\n      disabled: [{name: '*'}]\n      enabled:\n      - {name: Sort}\n      - {name: Bind}\n"+text, plugins...)
}

// parse reads a configuration with one profile, whose fields follow.
func parse(t testing.TB, profile string) *config.Configuration {
	c, err := config.Parse([]byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n- schedulerName: default-scheduler\n" + profile))
	require.NoError(t, err)
	return c
}

func factoryOf(plugins ...framework.Plugin) Factory {
	return func(_ *config.Profile, name string) (framework.Plugin, error) {
		for _, p := range append([]framework.Plugin{sorter{"Sort"}, binder{named: "Bind"}}, plugins...) {
			if p.Name() == name {
				return p, nil
			}
		}
		return nil, fmt.Errorf("does not exist")
	}
}

func profileWith(t testing.TB, text string, plugins ...framework.Plugin) *Profile {
	profiles, err := NewProfiles(parse(t, text), factoryOf(plugins...), nil)
	require.NoError(t, err)
	return profiles["default-scheduler"]
}

func snapshotOf(n int) *framework.Snapshot {
	nodes := make([]*framework.NodeInfo, n)
	for i := range nodes {
		nodes[i] = framework.NewNodeInfo(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}})
	}
	return framework.NewSnapshot(nil, nodes...)
}

func podOf(name string, priority int32) *framework.PodInfo {
	return framework.NewPodInfo(&v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Priority: ptr.To(priority)},
	})
}

func newCore() *Core { return New(Options{Random: rand.New(rand.NewPCG(1, 2))}) }

func reject(c framework.Code, reason string) *framework.Status { return framework.NewStatus(c, reason) }

// only passes the nodes of these names.
func only(name string, nodes ...string) filter {
	no := reject(framework.Unschedulable, "node(s) were not "+name).By(name)
	return filter{named(name), func(_ *framework.PodInfo, n *framework.NodeInfo) *framework.Status {
		for _, yes := range nodes {
			if n.Name() == yes {
				return nil
			}
		}
		return no
	}}
}
