package plugins

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

type set = map[string]string

// newNode makes a node with room for 110 pods, 4 CPUs and 8 GiB, and changes it.
func newNode(name string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set{v1.LabelHostname: name}}}
	n.Status.Allocatable = amounts("4", "8Gi")
	n.Status.Allocatable[v1.ResourcePods] = resource.MustParse("110")
	for _, f := range change {
		f(n)
	}
	return n
}

func amounts(cpu, memory string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
}

func labelled(kv ...string) func(*v1.Node) {
	return func(n *v1.Node) {
		for i := 0; i < len(kv); i += 2 {
			n.Labels[kv[i]] = kv[i+1]
		}
	}
}

func tainted(key, value string, effect v1.TaintEffect) func(*v1.Node) {
	return func(n *v1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Value: value, Effect: effect})
	}
}

// newPod makes a pod of namespace "default" whose UID is its name, and changes it.
func newPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}}
	p.Spec.Containers = []v1.Container{{Name: "c", Image: "image"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func requests(list v1.ResourceList) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests = list }
}

func podLabels(kv ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		if p.Labels == nil {
			p.Labels = set{}
		}
		for i := 0; i < len(kv); i += 2 {
			p.Labels[kv[i]] = kv[i+1]
		}
	}
}

func onto(node string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.NodeName = node } }

func inNamespace(ns string) func(*v1.Pod) { return func(p *v1.Pod) { p.Namespace = ns } }

func info(p *v1.Pod) *framework.PodInfo { return framework.NewPodInfo(p) }

// newSnapshot puts pods onto the nodes that they name.
func newSnapshot(c framework.Cluster, nodes []*v1.Node, pods ...*v1.Pod) *framework.Snapshot {
	infos := make([]*framework.NodeInfo, len(nodes))
	for i, n := range nodes {
		infos[i] = framework.NewNodeInfo(n)
		for _, p := range pods {
			if p.Spec.NodeName == n.Name {
				infos[i].AddPod(info(p))
			}
		}
	}
	return framework.NewSnapshot(c, infos...)
}

// filterAll asks a plugin about all nodes; a plugin that skips lets all pass.
func filterAll(t testing.TB, p framework.Plugin, pod *v1.Pod, s *framework.Snapshot) []*framework.Status {
	t.Helper()
	state, in := framework.NewCycleState(), info(pod)
	out := make([]*framework.Status, len(s.Nodes()))
	if pre, ok := p.(framework.PreFilter); ok {
		names, status := pre.PreFilter(state, in, s)
		if status.IsSkip() {
			return out
		}
		for i := range out {
			out[i] = status
		}
		if !status.IsSuccess() {
			return out
		}
		if names != nil {
			for i, n := range s.Nodes() {
				if _, ok := names[n.Name()]; !ok {
					out[i] = reject("names", framework.UnschedulableAndUnresolvable, "not named")
				}
			}
		}
	}
	for i, n := range s.Nodes() {
		if out[i] == nil {
			out[i] = p.(framework.Filter).Filter(state, in, n)
		}
	}
	return out
}

// scoreAll scores all nodes and normalizes; nil if the plugin skips.
func scoreAll(t testing.TB, p framework.Plugin, pod *v1.Pod, s *framework.Snapshot) []int64 {
	t.Helper()
	state, in := framework.NewCycleState(), info(pod)
	if pre, ok := p.(framework.PreScore); ok {
		status := pre.PreScore(state, in, s, s.Nodes())
		if status.IsSkip() {
			return nil
		}
		require.NoError(t, status.Err())
	}
	out := make([]int64, len(s.Nodes()))
	for i, n := range s.Nodes() {
		score, status := p.(framework.Score).Score(state, in, n)
		require.NoError(t, status.Err())
		out[i] = score
	}
	if n, ok := p.(framework.NormalizeScore); ok {
		require.NoError(t, n.NormalizeScore(state, in, out).Err())
	}
	for _, score := range out {
		require.GreaterOrEqual(t, score, framework.MinScore)
		require.LessOrEqual(t, score, framework.MaxScore)
	}
	return out
}

// say renders statuses as "" for success and "U:" or "UU:" with the message for rejections.
func say(statuses ...*framework.Status) []string {
	out := make([]string, len(statuses))
	for i, s := range statuses {
		switch s.Code() {
		case framework.Success:
		case framework.Unschedulable:
			out[i] = "U: " + s.Message()
		case framework.UnschedulableAndUnresolvable:
			out[i] = "UU: " + s.Message()
		default:
			out[i] = fmt.Sprintf("%s: %s", s.Code(), s.Message())
		}
	}
	return out
}

// helps tells whether one of the plugin's hints covers the event and finds the change helpful.
func helps(p framework.Requeuer, pod *v1.Pod, e framework.Event, c framework.Change) bool {
	for _, h := range p.Hints() {
		if h.Event.Covers(e) && (h.Helps == nil || h.Helps(info(pod), c)) {
			return true
		}
	}
	return false
}
