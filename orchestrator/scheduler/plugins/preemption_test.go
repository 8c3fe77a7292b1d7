package plugins

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// runner asks some plugins.
type runner struct {
	plugins   []framework.Filter
	extenders []framework.Extender
}

// newRunner asks PreFilter; plugins that skip take no part.
func newRunner(t testing.TB, state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot, plugins ...framework.Filter) *runner {
	r := &runner{}
	for _, p := range plugins {
		if pre, ok := p.(framework.PreFilter); ok {
			_, st := pre.PreFilter(state, pod, s)
			if st.IsSkip() {
				continue
			}
			require.NoError(t, st.Err())
		}
		r.plugins = append(r.plugins, p)
	}
	return r
}

func (r *runner) Fits(state *framework.CycleState, pod *framework.PodInfo, _ *framework.Snapshot, node *framework.NodeInfo) *framework.Status {
	for _, p := range r.plugins {
		if st := p.Filter(state, pod, node); !st.IsSuccess() {
			return st
		}
	}
	return nil
}

func (r *runner) Added(state *framework.CycleState, pod, added *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	for _, p := range r.plugins {
		if c, ok := p.(framework.PodChanges); ok {
			c.AddPod(state, pod, added, node)
		}
	}
	return nil
}

func (r *runner) Removed(state *framework.CycleState, pod, removed *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	for _, p := range r.plugins {
		if c, ok := p.(framework.PodChanges); ok {
			c.RemovePod(state, pod, removed, node)
		}
	}
	return nil
}

func (r *runner) Extenders() []framework.Extender { return r.extenders }

func (r *runner) Parallel(n int, f func(i int) bool) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func (r *runner) all(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) []*framework.Status {
	out := make([]*framework.Status, len(s.Nodes()))
	for i, n := range s.Nodes() {
		out[i] = r.Fits(state, pod, s, n)
	}
	return out
}

func testFit() *nodeResourcesFit {
	return newNodeResourcesFit(&config.NodeResourcesFitArgs{ScoringStrategy: &config.ScoringStrategy{Type: config.LeastAllocated}}, nil)
}

func testPreemption(percentage, absolute int32) *defaultPreemption {
	return newDefaultPreemption(&config.DefaultPreemptionArgs{MinCandidateNodesPercentage: &percentage, MinCandidateNodesAbsolute: &absolute}, nil)
}

func withPriority(n int32) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Priority = &n } }

func started(second int64) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Status.StartTime = ptr.To(metav1.Unix(second, 0)) }
}

func cpu(n string) func(*v1.Pod) { return requests(v1.ResourceList{"cpu": amounts(n, "0")["cpu"]}) }

func newBudget(allowed int32, app string, disrupted ...string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: app}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: set{"app": app}}
	b.Status.DisruptionsAllowed = allowed
	for _, name := range disrupted {
		if b.Status.DisruptedPods == nil {
			b.Status.DisruptedPods = map[string]metav1.Time{}
		}
		b.Status.DisruptedPods[name] = metav1.Unix(1, 0)
	}
	return b
}

// names are "pod pod pod" of a proposal, after its node.
func names(p *framework.Preemption) (out []string) {
	if p == nil {
		return nil
	}
	out = []string{p.Node}
	for _, v := range p.Pods {
		out = append(out, v.Pod.Name)
	}
	return out
}

// preempt runs the plugin with the given filters besides that of resources.
func preempt(t testing.TB, p *defaultPreemption, pod *v1.Pod, s *framework.Snapshot, extenders []framework.Extender, more ...framework.Filter) (*framework.Preemption, *framework.Status) {
	state, in := framework.NewCycleState(), info(pod)
	r := newRunner(t, state, in, s, append(more, testFit())...)
	r.extenders = extenders
	return p.PostFilter(context.Background(), r, state, in, s, r.all(state, in, s))
}

func TestPreemptionVictims(t *testing.T) {
	a, b := newNode("a"), newNode("b")
	on := func(name, node string, priority int32, c string, more ...func(*v1.Pod)) *v1.Pod {
		return newPod(name, append(more, onto(node), withPriority(priority), cpu(c))...)
	}
	app := podLabels("app", "x")
	wants := newPod("p", withPriority(10), cpu("2"))
	for name, c := range map[string]struct {
		nodes   []*v1.Node
		pods    []*v1.Pod
		budgets []*policyv1.PodDisruptionBudget
		want    []string
		text    string
	}{
		"only what is needed": {
			nodes: []*v1.Node{a}, pods: []*v1.Pod{on("x", "a", 1, "2"), on("y", "a", 2, "1"), on("z", "a", 3, "1")},
			want: []string{"a", "x"}, text: "preemption: found a potential placement for pod on node a, preempting 1 victims",
		},
		"the more important stays": {
			nodes: []*v1.Node{a}, pods: []*v1.Pod{on("x", "a", 1, "2"), on("y", "a", 2, "2")},
			want: []string{"a", "x"}, text: "preemption: found a potential placement for pod on node a, preempting 1 victims",
		},
		"the older stays": {
			nodes: []*v1.Node{a}, pods: []*v1.Pod{on("x", "a", 1, "2", started(5)), on("y", "a", 1, "2", started(9))},
			want: []string{"a", "y"}, text: "preemption: found a potential placement for pod on node a, preempting 1 victims",
		},
		"fewer broken budgets": {
			nodes: []*v1.Node{a, b}, pods: []*v1.Pod{on("x", "a", 1, "4", app), on("y", "b", 9, "4")}, budgets: []*policyv1.PodDisruptionBudget{newBudget(0, "x")},
			want: []string{"b", "y"}, text: "preemption: found a potential placement for pod on node b, preempting 1 victims",
		},
		"a budget with room": {
			nodes: []*v1.Node{a, b}, pods: []*v1.Pod{on("x", "a", 1, "4", app), on("y", "b", 9, "4")}, budgets: []*policyv1.PodDisruptionBudget{newBudget(1, "x")},
			want: []string{"a", "x"}, text: "preemption: found a potential placement for pod on node a, preempting 1 victims",
		},
		"already disrupted": {
			nodes: []*v1.Node{a, b}, pods: []*v1.Pod{on("x", "a", 1, "4", app), on("y", "b", 9, "4")}, budgets: []*policyv1.PodDisruptionBudget{newBudget(0, "x", "x")},
			want: []string{"a", "x"}, text: "preemption: found a potential placement for pod on node a, preempting 1 victims",
		},
		"with a budget stay before others": {
			nodes: []*v1.Node{a}, pods: []*v1.Pod{on("x", "a", 1, "2", app), on("y", "a", 2, "2")}, budgets: []*policyv1.PodDisruptionBudget{newBudget(0, "x")},
			want: []string{"a", "y"}, text: "preemption: found a potential placement for pod on node a, preempting 1 victims",
		},
		"the lowest highest priority": {
			nodes: []*v1.Node{a, b}, pods: []*v1.Pod{on("x", "a", 5, "4"), on("y", "b", 4, "2"), on("z", "b", 4, "2"), on("w", "b", 4, "0")},
			want: []string{"b", "z"}, text: "preemption: found a potential placement for pod on node b, preempting 1 victims",
		},
		"the lowest sum": {
			nodes: []*v1.Node{a, b},
			pods: []*v1.Pod{
				on("q", "a", 9, "1"), on("x", "a", 4, "1500m"), on("y", "a", 3, "1500m"),
				on("r", "b", 9, "1"), on("z", "b", 4, "1500m"), on("w", "b", 2, "1500m"),
			},
			want: []string{"b", "z", "w"}, text: "preemption: found a potential placement for pod on node b, preempting 2 victims",
		},
		"the latest start": {
			nodes: []*v1.Node{a, b}, pods: []*v1.Pod{on("x", "a", 4, "4", started(3)), on("y", "b", 4, "4", started(8))},
			want: []string{"b", "y"}, text: "preemption: found a potential placement for pod on node b, preempting 1 victims",
		},
		"not even on an empty node": {
			nodes: []*v1.Node{newNode("s", func(n *v1.Node) { n.Status.Allocatable["cpu"] = amounts("1", "0")["cpu"] }), b},
			pods:  []*v1.Pod{on("x", "b", 10, "4")},
			want:  []string{""}, text: "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
		},
		"what stays is too much": {
			nodes: []*v1.Node{a}, pods: []*v1.Pod{on("x", "a", 10, "3"), on("y", "a", 1, "1")},
			want: []string{""}, text: "preemption: 0/1 nodes are available: 1 Insufficient cpu.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSnapshot(&testCluster{budgets: c.budgets}, c.nodes, c.pods...)
			got, status := preempt(t, testPreemption(100, 1), wants, s, nil)
			require.Equal(t, c.want, names(got))
			require.Equal(t, c.text, status.Message())
			require.Equal(t, c.want[0] != "", status.IsSuccess())
			if !status.IsSuccess() {
				require.Equal(t, framework.Unschedulable, status.Code())
			}
		})
	}
}

func TestLeastLossByNumber(t *testing.T) {
	// Sums of priorities are equal only if the numbers are, unless priorities reach the least there is.
	of := func(node string, priorities ...int32) candidate {
		c := candidate{node: node}
		for i, n := range priorities {
			c.Pods = append(c.Pods, info(newPod(fmt.Sprint(node, i), withPriority(n))))
		}
		return c
	}
	require.Equal(t, "b", leastLoss([]candidate{of("a", 5, math.MinInt32), of("b", 5)}).node)
	require.Equal(t, "b", leastLoss([]candidate{of("a", 5, 4), of("b", 5, 3), of("c", 5, 3)}).node)
	require.Nil(t, leastLoss(nil))
}

func TestPreemptionNotEligible(t *testing.T) {
	full := newPod("x", onto("a"), withPriority(1), cpu("4"))
	s := newSnapshot(nil, []*v1.Node{newNode("a")}, full)
	never := newPod("p", withPriority(10), cpu("2"), func(p *v1.Pod) { p.Spec.PreemptionPolicy = ptr.To(v1.PreemptNever) })
	got, status := preempt(t, testPreemption(100, 1), never, s, nil)
	require.Nil(t, got)
	require.Equal(t, []string{"U: preemption: not eligible due to preemptionPolicy=Never."}, say(status))

	leaving := newPod("x", onto("a"), withPriority(1), cpu("4"), func(p *v1.Pod) {
		p.DeletionTimestamp = ptr.To(metav1.Unix(1, 0))
		p.Status.Conditions = []v1.PodCondition{{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler}}
	})
	nodes := []*v1.Node{newNode("a"), newNode("b")}
	s = newSnapshot(nil, nodes, leaving, newPod("y", onto("b"), withPriority(1), cpu("4")))
	promised := newPod("p", withPriority(10), cpu("2"), func(p *v1.Pod) { p.Status.NominatedNodeName = "a" })
	const waits = "U: preemption: not eligible due to a terminating pod on the nominated node."
	got, status = preempt(t, testPreemption(100, 1), promised, s, nil)
	require.Nil(t, got)
	require.Equal(t, []string{waits}, say(status))

	plain := newPod("p", withPriority(10), cpu("2"))
	s.Nominated = map[string][]*framework.PodInfo{"a": {info(plain)}}
	_, status = preempt(t, testPreemption(100, 1), plain, s, nil)
	require.Equal(t, []string{waits}, say(status), "promised, as this process knows")
	s.Nominated = nil
	_, status = preempt(t, testPreemption(100, 1), plain, s, nil)
	require.True(t, status.IsSuccess())

	// A node that no preemption can make fit is no reason to wait.
	s = newSnapshot(nil, []*v1.Node{newNode("a", func(n *v1.Node) { n.Spec.Unschedulable = true }), nodes[1]}, leaving, newPod("y", onto("b"), withPriority(1), cpu("4")))
	got, status = preempt(t, testPreemption(100, 1), promised, s, nil, newNodeUnschedulable())
	require.True(t, status.IsSuccess())
	require.Equal(t, []string{"b", "y"}, names(got))
}

func TestPreemptionEndsWhenThereIsEnough(t *testing.T) {
	p := testPreemption(10, 3)
	require.Equal(t, []int{1, 3, 3, 3, 10}, []int{p.enough(1), p.enough(3), p.enough(20), p.enough(30), p.enough(100)})

	var nodes []*v1.Node
	var pods []*v1.Pod
	for i := range 40 {
		n := fmt.Sprintf("n%02d", i)
		nodes = append(nodes, newNode(n))
		// Later nodes are the better choice, and the first five break a budget.
		pod := newPod("v"+n, onto(n), cpu("4"), withPriority(int32(40-i)))
		if i < 5 {
			pod.Labels = set{"app": "x"}
		}
		pods = append(pods, pod)
	}
	s := newSnapshot(&testCluster{budgets: []*policyv1.PodDisruptionBudget{newBudget(0, "x")}}, nodes, pods...)
	wants := newPod("p", withPriority(100), cpu("1"))
	p = testPreemption(10, 1)
	got, _ := preempt(t, p, wants, s, nil)
	require.Equal(t, "n05", got.Node, "the search goes on until one breaks no budget")
	p.offset = func(n int) int { return n - 2 }
	got, _ = preempt(t, p, wants, s, nil)
	require.Equal(t, "n39", got.Node, "four candidates: 38, 39, 0 and 1")
}

type objector struct {
	framework.Extender
	ignorable bool
	answer    func(map[string]*framework.Victims) (map[string]*framework.Victims, error)
}

func (o *objector) Name() string                   { return "objector" }
func (o *objector) Ignorable() bool                { return o.ignorable }
func (o *objector) Interested(*v1.Pod) bool        { return true }
func (o *objector) Verbs() framework.ExtenderVerbs { return framework.ExtenderVerbs{Preempt: true} }
func (o *objector) Preempt(_ context.Context, _ *v1.Pod, c map[string]*framework.Victims, _ *framework.Snapshot) (map[string]*framework.Victims, error) {
	return o.answer(c)
}

func TestPreemptionExtenders(t *testing.T) {
	s := newSnapshot(nil, []*v1.Node{newNode("a"), newNode("b")},
		newPod("x", onto("a"), withPriority(1), cpu("4")), newPod("y", onto("b"), withPriority(2), cpu("4")))
	wants := newPod("p", withPriority(10), cpu("2"))
	run := func(o ...framework.Extender) (*framework.Preemption, *framework.Status) {
		return preempt(t, testPreemption(100, 1), wants, s, o)
	}
	without := func(node string) func(map[string]*framework.Victims) (map[string]*framework.Victims, error) {
		return func(in map[string]*framework.Victims) (map[string]*framework.Victims, error) {
			delete(in, node)
			return in, nil
		}
	}
	got, _ := run()
	require.Equal(t, []string{"a", "x"}, names(got))
	got, _ = run(&objector{answer: without("a")})
	require.Equal(t, []string{"b", "y"}, names(got))
	got, status := run(&objector{answer: without("a")}, &objector{answer: without("b")})
	require.Nil(t, got)
	require.Equal(t, []string{"U: preemption: no candidate node for preemption"}, say(status))

	fails := func(map[string]*framework.Victims) (map[string]*framework.Victims, error) {
		return nil, errors.New("down")
	}
	_, status = run(&objector{answer: fails})
	require.Equal(t, []string{"Error: preemption: down"}, say(status))
	got, _ = run(&objector{answer: fails, ignorable: true})
	require.Equal(t, []string{"a", "x"}, names(got))

	none := func(in map[string]*framework.Victims) (map[string]*framework.Victims, error) {
		return map[string]*framework.Victims{"a": {}, "b": in["b"]}, nil
	}
	_, status = run(&objector{answer: none})
	require.Equal(t, []string{`Error: preemption: expected at least one victim pod on node "a"`}, say(status))
	got, _ = run(&objector{answer: none, ignorable: true})
	require.Equal(t, []string{"b", "y"}, names(got))
}

// slowPreemption is the choice as it is defined, with a snapshot made afresh for every question.
type slowPreemption struct {
	t       testing.TB
	cluster *testCluster
	nodes   []*v1.Node
	pods    []*v1.Pod
	pod     *v1.Pod
}

func (o *slowPreemption) plugins() []framework.Filter {
	return []framework.Filter{testInterPodAffinity(), testTopologySpread(), testFit()}
}

func (o *slowPreemption) fits(node string, without map[string]bool) *framework.Status {
	s := newSnapshot(o.cluster, o.nodes, slices.DeleteFunc(slices.Clone(o.pods), func(p *v1.Pod) bool { return without[p.Name] })...)
	state := framework.NewCycleState()
	return newRunner(o.t, state, info(o.pod), s, o.plugins()...).Fits(state, info(o.pod), s, s.Node(node))
}

func priorityOf(p *v1.Pod) int32 { return ptr.Deref(p.Spec.Priority, 0) }

func startedAt(p *v1.Pod) time.Time {
	if p.Status.StartTime == nil {
		return time.Unix(1<<40, 0)
	}
	return p.Status.StartTime.Time
}

func moreImportant(a, b *v1.Pod) int {
	if priorityOf(a) != priorityOf(b) {
		return int(priorityOf(b)) - int(priorityOf(a))
	}
	return startedAt(a).Compare(startedAt(b))
}

func (o *slowPreemption) violates(lower []*v1.Pod) map[string]bool {
	out, left := map[string]bool{}, map[string]int32{}
	for _, b := range o.cluster.budgets {
		left[b.Name] = b.Status.DisruptionsAllowed
	}
	for _, p := range lower {
		for _, b := range o.cluster.budgets {
			if b.Namespace == p.Namespace && labels.SelectorFromSet(b.Spec.Selector.MatchLabels).Matches(labels.Set(p.Labels)) && !out[p.Name] {
				left[b.Name]--
				out[p.Name] = left[b.Name] < 0
			}
		}
	}
	return out
}

// victims returns nil if the node cannot be made to fit.
func (o *slowPreemption) victims(node string) (victims []*v1.Pod, violations int) {
	var lower []*v1.Pod
	gone := map[string]bool{}
	for _, p := range o.pods {
		if p.Spec.NodeName == node && priorityOf(p) < priorityOf(o.pod) {
			lower = append(lower, p)
			gone[p.Name] = true
		}
	}
	if o.fits(node, nil).Code() != framework.Unschedulable || len(lower) == 0 || !o.fits(node, gone).IsSuccess() {
		return nil, 0
	}
	slices.SortStableFunc(lower, moreImportant)
	violating := o.violates(lower)
	for _, round := range []bool{true, false} {
		for _, p := range lower {
			if violating[p.Name] != round {
				continue
			}
			delete(gone, p.Name)
			if !o.fits(node, gone).IsSuccess() {
				gone[p.Name] = true
				victims = append(victims, p)
				if round {
					violations++
				}
			}
		}
	}
	slices.SortStableFunc(victims, moreImportant)
	return victims, violations
}

// cost is compared from left to right.
func cost(victims []*v1.Pod, violations int) []int64 {
	sum, first := int64(0), startedAt(victims[0])
	for _, p := range victims {
		sum += int64(priorityOf(p)) + 1<<31
		if priorityOf(p) == priorityOf(victims[0]) && startedAt(p).Before(first) {
			first = startedAt(p)
		}
	}
	return []int64{int64(violations), int64(priorityOf(victims[0])), sum, int64(len(victims)), -first.Unix()}
}

func TestPreemptionAgainstDefinition(t *testing.T) {
	proposals, broken := 0, 0
	for seed := range uint64(600) {
		m := newMaker(seed)
		c := m.cluster()
		if m.chance(60) {
			c.budgets = []*policyv1.PodDisruptionBudget{newBudget(int32(m.IntN(2)), "x"), newBudget(int32(m.IntN(3)), "y")}
		}
		nodes := m.nodes(1 + m.IntN(5))
		pods := m.pods(m.IntN(20), nodes)
		for _, p := range append(pods, m.pod("new", "")) {
			p.Namespace = "default"
			p.Spec.Priority = ptr.To(int32(m.IntN(4)))
			cpu(pick(m, "0", "1", "2", "3"))(p)
			if m.chance(80) {
				started(int64(m.IntN(5)))(p)
			}
		}
		pod := m.pod("new", "")
		pod.Namespace, pod.Spec.Priority = "default", ptr.To(int32(2+m.IntN(3)))
		cpu(pick(m, "1", "2", "4"))(pod)

		o := &slowPreemption{t, c, nodes, pods, pod}
		want, least := []string{""}, []int64(nil)
		for _, n := range nodes {
			if victims, violations := o.victims(n.Name); victims != nil {
				if now := cost(victims, violations); least == nil || slices.Compare(now, least) < 0 {
					least, want = now, []string{n.Name}
					for _, v := range victims {
						want = append(want, v.Name)
					}
				}
			}
		}
		s := newSnapshot(c, nodes, pods...)
		if slices.ContainsFunc(nodes, func(n *v1.Node) bool { return o.fits(n.Name, nil).IsSuccess() }) {
			continue
		}
		got, status := preempt(t, testPreemption(100, 100), pod, s, nil, testInterPodAffinity(), testTopologySpread())
		require.Equal(t, want, names(got), "seed %d: %s", seed, status.Message())
		if want[0] != "" {
			require.EqualValues(t, least[0], got.Violations)
			proposals++
			if got.Violations > 0 {
				broken++
			}
		}
	}
	require.Greater(t, proposals, 50)
	require.Greater(t, broken, 3)
}
