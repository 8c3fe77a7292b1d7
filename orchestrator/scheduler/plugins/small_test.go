package plugins

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

func TestTableMakesEveryDefaultPlugin(t *testing.T) {
	profile := &config.Default().Profiles[0]
	for name, make := range Table() {
		p, err := make(profile.ArgsOf(name), Deps{})
		require.NoError(t, err, name)
		require.Equal(t, name, p.Name())
	}
	_, err := Table()[config.NodeAffinity](nil, Deps{})
	require.ErrorContains(t, err, "want args to be of type *config.NodeAffinityArgs, got <nil>")
}

func TestSchedulingGates(t *testing.T) {
	p := newSchedulingGates()
	gated := newPod("p", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "a"}, {Name: "b"}} })
	require.Equal(t, []string{"UU: waiting for scheduling gates: [a b]"}, say(p.PreEnqueue(context.Background(), gated)))
	require.Nil(t, p.PreEnqueue(context.Background(), newPod("q")))
	require.True(t, helps(p, gated, framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodGatesEliminated}, framework.Change{}))
}

func TestPrioritySort(t *testing.T) {
	now := time.Unix(100, 0)
	queued := func(priority int32, at time.Time) *framework.QueuedPod {
		return &framework.QueuedPod{PodInfo: info(newPod("p", func(p *v1.Pod) { p.Spec.Priority = &priority })), Added: at}
	}
	p := newPrioritySort()
	require.True(t, p.Less(queued(2, now.Add(time.Second)), queued(1, now)))
	require.True(t, p.Less(queued(1, now), queued(1, now.Add(time.Second))))
	require.False(t, p.Less(queued(1, now), queued(1, now)))
}

func TestNodeName(t *testing.T) {
	s := newSnapshot(nil, []*v1.Node{newNode("a"), newNode("b")})
	p := newNodeName()
	named := newPod("p", onto("b"))
	require.Equal(t, []string{"UU: not named", ""}, say(filterAll(t, p, named, s)...))
	require.Equal(t, []string{"UU: node(s) didn't match the requested node name"}, say(p.Filter(nil, info(named), s.Node("a"))))
	require.Equal(t, []string{"", ""}, say(filterAll(t, p, newPod("q"), s)...))
}

func TestNodeUnschedulable(t *testing.T) {
	cordoned := newNode("a", func(n *v1.Node) { n.Spec.Unschedulable = true })
	open := newNode("a")
	s := newSnapshot(nil, []*v1.Node{cordoned, newNode("b")})
	p := newNodeUnschedulable()
	pod := newPod("p")
	require.Equal(t, []string{"UU: node(s) were unschedulable", ""}, say(filterAll(t, p, pod, s)...))
	tolerant := newPod("q", func(p *v1.Pod) {
		p.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeUnschedulable, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoSchedule}}
	})
	require.Equal(t, []string{"", ""}, say(filterAll(t, p, tolerant, s)...))

	update := framework.Event{Resource: framework.Node, Action: framework.UpdateNodeTaint}
	require.True(t, helps(p, pod, update, framework.Change{Old: cordoned, New: open}))
	require.False(t, helps(p, pod, update, framework.Change{Old: open, New: open}))
	require.False(t, helps(p, pod, framework.Event{Resource: framework.Node, Action: framework.Add}, framework.Change{New: cordoned}))
	require.True(t, helps(p, pod, framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodToleration}, framework.Change{Old: pod, New: tolerant}))
}

func TestNodePorts(t *testing.T) {
	port := func(name, ip string, proto v1.Protocol, n int32, more ...func(*v1.Pod)) *v1.Pod {
		return newPod(name, append(more, func(p *v1.Pod) {
			p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostIP: ip, Protocol: proto, HostPort: n}}
		})...)
	}
	const taken = "U: node(s) didn't have free ports for the requested pod ports"
	on := port("x", "10.0.0.1", "TCP", 80, onto("a"))
	s := newSnapshot(nil, []*v1.Node{newNode("a")}, on)
	p := newNodePorts()
	for _, c := range []struct {
		ip    string
		proto v1.Protocol
		port  int32
		want  string
	}{
		{"10.0.0.1", "TCP", 80, taken},
		{"", "TCP", 80, taken},
		{"0.0.0.0", "", 80, taken},
		{"10.0.0.2", "TCP", 80, ""},
		{"10.0.0.1", "UDP", 80, ""},
		{"10.0.0.1", "TCP", 81, ""},
	} {
		require.Equal(t, []string{c.want}, say(filterAll(t, p, port("p", c.ip, c.proto, c.port), s)...), "%+v", c)
	}
	gone := framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}
	require.True(t, helps(p, port("p", "", "TCP", 80), gone, framework.Change{Old: on}))
	require.False(t, helps(p, port("p", "", "TCP", 81), gone, framework.Change{Old: on}))
}

type binder struct {
	got *v1.Binding
	err error
}

func (b *binder) Bind(_ context.Context, in *v1.Binding) error {
	b.got = in
	return b.err
}

func TestDefaultBinder(t *testing.T) {
	b := &binder{}
	p := newDefaultBinder(b)
	require.Nil(t, p.Bind(context.Background(), nil, newPod("p"), "n"))
	require.Equal(t, v1.ObjectReference{Kind: "Node", Name: "n"}, b.got.Target)
	require.Equal(t, "p", b.got.Name)
	require.EqualValues(t, "p", b.got.UID)
	b.err = errors.New("no")
	s := p.Bind(context.Background(), nil, newPod("p"), "n")
	require.Equal(t, framework.Error, s.Code())
	require.ErrorIs(t, s.Err(), b.err)
}
