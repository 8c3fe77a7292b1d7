package core

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

func TestMessages(t *testing.T) {
	unschedulable, hopeless := framework.Unschedulable, framework.UnschedulableAndUnresolvable
	for name, c := range map[string]struct {
		nodes    int
		plugins  []framework.Plugin
		want     string
		rejected []string
	}{
		"no nodes": {want: "no nodes available to schedule pods"},
		"reasons by number": {
			nodes: 5,
			plugins: []framework.Plugin{only("X", "n0", "n1"), filter{"Y", func(*framework.PodInfo, *framework.NodeInfo) *framework.Status {
				return framework.NewStatus(unschedulable, "Insufficient cpu", "Insufficient memory")
			}}},
			want:     "0/5 nodes are available: 2 Insufficient cpu, 2 Insufficient memory, 3 node(s) were not X.",
			rejected: []string{"X", "Y"},
		},
		"preemption": {
			nodes:    2,
			plugins:  []framework.Plugin{only("X"), postFilter{named: "Z", status: reject(unschedulable, "preemption: no luck.")}},
			want:     "0/2 nodes are available: 2 node(s) were not X. preemption: no luck.",
			rejected: []string{"X"},
		},
		"prefilter": {
			nodes:    3,
			plugins:  []framework.Plugin{preFilter{filter: only("X"), status: reject(hopeless, "nothing doing")}, only("Y")},
			want:     "0/3 nodes are available: nothing doing.",
			rejected: []string{"X"},
		},
		"narrowed": {
			nodes:    3,
			plugins:  []framework.Plugin{preFilter{filter: only("X"), nodes: map[string]struct{}{"n1": {}, "gone": {}}}},
			want:     "0/3 nodes are available: 1 node(s) were not X, 2 node(s) didn't satisfy plugin(s) [X].",
			rejected: []string{"X"},
		},
		"narrowed to nothing": {
			nodes: 3,
			plugins: []framework.Plugin{
				preFilter{filter: only("Y"), nodes: map[string]struct{}{"n1": {}}}, preFilter{filter: only("X"), nodes: map[string]struct{}{"n2": {}}},
			},
			want:     "0/3 nodes are available: node(s) didn't satisfy plugin(s) [X Y] simultaneously.",
			rejected: []string{"X", "Y"},
		},
		"error": {
			nodes: 1,
			plugins: []framework.Plugin{filter{"X", func(*framework.PodInfo, *framework.NodeInfo) *framework.Status {
				return framework.AsStatus(fmt.Errorf("broken"))
			}}},
			want: `running "X" filter plugin: broken`,
		},
		"error in prefilter": {
			nodes:   1,
			plugins: []framework.Plugin{preFilter{filter: only("X"), status: framework.AsStatus(fmt.Errorf("broken"))}},
			want:    `running PreFilter plugin "X": broken`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newCore().Schedule(t.Context(), profileOf(t, c.plugins...), podOf("p", 0), "", snapshotOf(c.nodes))
			require.Empty(t, d.Node)
			require.EqualError(t, d.Failure, c.want)
			require.Len(t, d.Failure.RejectedBy, len(c.rejected))
			for _, r := range c.rejected {
				require.Contains(t, d.Failure.RejectedBy, r)
			}
			require.Equal(t, name != "error" && name != "error in prefilter", d.Failure.Rejected())
		})
	}
}

func TestSkippedFilterIsNotAsked(t *testing.T) {
	p := profileOf(t, preFilter{filter: only("X"), status: framework.NewStatus(framework.Skip)}, only("Y", "n1"))
	require.Equal(t, "n1", newCore().Schedule(t.Context(), p, podOf("p", 0), "", snapshotOf(2)).Node)
}

func TestPendingPlugins(t *testing.T) {
	p := profileOf(t, filter{"X", func(*framework.PodInfo, *framework.NodeInfo) *framework.Status {
		return reject(framework.Pending, "wait")
	}})
	f := newCore().Schedule(t.Context(), p, podOf("p", 0), "", snapshotOf(1)).Failure
	require.Empty(t, f.RejectedBy)
	require.Equal(t, map[string]struct{}{"X": {}}, f.PendingBy)
	require.Equal(t, v1.PodReasonUnschedulable, f.Reason())
}

func TestScores(t *testing.T) {
	number := func(n *framework.NodeInfo) (k int64, _ *framework.Status) {
		_, err := fmt.Sscanf(n.Name(), "n%d", &k)
		return k, framework.AsStatus(err)
	}
	backwards := func(n *framework.NodeInfo) (int64, *framework.Status) {
		k, st := number(n)
		return 9 - k, st
	}
	up, down := scorer{named: "Up", f: number, scale: 10}, scorer{named: "Down", f: backwards, scale: 11}
	skipped := scorer{named: "Skipped", f: backwards, scale: 11, pre: framework.NewStatus(framework.Skip)}
	node := func(plugins ...framework.Plugin) string {
		d := newCore().Schedule(t.Context(), profileOf(t, plugins...), podOf("p", 0), "", snapshotOf(10))
		require.Nil(t, d.Failure)
		require.Equal(t, 10, d.Feasible)
		return d.Node
	}
	require.Equal(t, "n9", node(up))
	require.Equal(t, "n0", node(up, down))
	require.Equal(t, "n9", node(up, skipped))
	heavy := profileWith(t, "  plugins:\n    multiPoint:\n      disabled: [{name: '*'}]\n      enabled: [{name: Sort}, {name: Bind}, {name: Up, weight: 2}, {name: Down}]\n", up, down)
	require.Equal(t, "n9", newCore().Schedule(t.Context(), heavy, podOf("p", 0), "", snapshotOf(10)).Node)

	for message, s := range map[string]scorer{
		`plugin "Up" returns an invalid score 110, it should in the range of [0, 100] after normalizing`: {named: "Up", f: number, scale: 110},
		`running Score plugins: plugin "Up" failed with: broken`: {named: "Up", f: func(*framework.NodeInfo) (int64, *framework.Status) {
			return 0, framework.AsStatus(fmt.Errorf("broken"))
		}},
		`running PreScore plugin "Up": broken`: {named: "Up", pre: framework.AsStatus(fmt.Errorf("broken"))},
	} {
		d := newCore().Schedule(t.Context(), profileOf(t, s), podOf("p", 0), "", snapshotOf(2))
		require.EqualError(t, d.Failure, message)
		require.False(t, d.Failure.Rejected())
		require.Equal(t, &framework.Preemption{}, d.Preemption, "a nomination is given up")
	}
}

func TestTiesAreBrokenByChance(t *testing.T) {
	p := profileOf(t, scorer{named: "S", f: func(n *framework.NodeInfo) (int64, *framework.Status) {
		if n.Name() == "n0" {
			return 1, nil
		}
		return 2, nil
	}, scale: 1})
	c, s := newCore(), snapshotOf(5)
	count := map[string]int{}
	for range 4000 {
		count[c.Schedule(t.Context(), p, podOf("p", 0), "", s).Node]++
	}
	require.Len(t, count, 4)
	for node, n := range count {
		require.InDelta(t, 1000, n, 150, node)
	}
}

func TestSearchGoesOnWhereItStopped(t *testing.T) {
	p := profileOf(t, only("X", "n2", "n5", "n6"))
	c, s := newCore(), snapshotOf(8)
	var got []string
	for range 5 {
		got = append(got, c.Schedule(t.Context(), p, podOf("p", 0), "", s).Node)
	}
	require.Equal(t, []string{"n2", "n5", "n6", "n2", "n5"}, got, "without scores, the first that fits")
}

// TestSameDecisions compares decisions that are made on one and on several processors.
func TestSameDecisions(t *testing.T) {
	run := func(processors int) (out []Decision) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
		r := rand.New(rand.NewPCG(3, 4))
		fits := make([]bool, 2000)
		for i := range fits {
			fits[i] = r.IntN(4) > 0 && i/500 != 2
		}
		c, s := newCore(), snapshotOf(len(fits))
		p := profileOf(t, filter{"F", func(_ *framework.PodInfo, n *framework.NodeInfo) *framework.Status {
			if fits[s.Position(n.Name())] {
				return nil
			}
			return reject(framework.Unschedulable, "no")
		}}, scorer{named: "S", f: func(n *framework.NodeInfo) (int64, *framework.Status) { return int64(n.Slot % 10), nil }, scale: 1})
		for range 40 {
			d := c.Schedule(t.Context(), p, podOf("p", 0), "", s)
			require.Equal(t, 680, d.Feasible)
			d.State = nil
			out = append(out, d)
		}
		return out
	}
	require.Equal(t, run(1), run(4))
}

// roomFor passes nodes with less than so many pods.
func roomFor(pods int) filter {
	return filter{"Room", func(_ *framework.PodInfo, n *framework.NodeInfo) *framework.Status {
		if len(n.Pods) >= pods {
			return reject(framework.Unschedulable, "full")
		}
		return nil
	}}
}

func TestNominations(t *testing.T) {
	p, s := profileOf(t, roomFor(1)), snapshotOf(2)
	s.Nominated = map[string][]*framework.PodInfo{"n0": {podOf("vip", 10)}}
	node := func(priority int32, name, nominated string) string {
		return newCore().Schedule(t.Context(), p, podOf(name, priority), nominated, s).Node
	}
	require.Equal(t, "n1", node(5, "p", ""), "must yield")
	require.Equal(t, "n1", node(10, "p", ""), "must yield to equals")
	require.Equal(t, "n0", node(11, "p", ""), "need not yield")
	require.Equal(t, "n0", node(10, "vip", ""), "does not yield to itself")
	require.Equal(t, "n1", node(11, "p", "n1"), "where it was promised")
	require.Equal(t, "n0", node(11, "p", "gone"))
	require.Empty(t, s.Nodes()[0].Pods)

	needs := profileOf(t, filter{"Company", func(_ *framework.PodInfo, n *framework.NodeInfo) *framework.Status {
		if len(n.Pods) == 0 {
			return reject(framework.Unschedulable, "lonely")
		}
		return nil
	}})
	require.Empty(t, newCore().Schedule(t.Context(), needs, podOf("p", 0), "", s).Node, "must fit without them, too")
}

func TestPostFilter(t *testing.T) {
	var seen []*framework.Status
	victims := &framework.Preemption{Node: "n1", Victims: framework.Victims{Pods: []*framework.PodInfo{podOf("victim", 0)}}}
	run := func(plugins ...framework.Plugin) Decision {
		return newCore().Schedule(t.Context(), profileOf(t, append(plugins, only("X"))...), podOf("p", 0), "", snapshotOf(2))
	}
	d := run(postFilter{named: "A", status: reject(framework.Unschedulable, "not me")}, postFilter{named: "B", proposal: victims, seen: &seen}, postFilter{named: "C"})
	require.Equal(t, victims, d.Preemption)
	require.Empty(t, d.Failure.PostFilter)
	require.Len(t, seen, 2)
	require.Equal(t, "X", seen[1].Plugin())
	d = run(postFilter{named: "A", status: reject(framework.Unschedulable, "one")}, postFilter{named: "B", status: reject(framework.Unschedulable, "two"), proposal: &framework.Preemption{}})
	require.Equal(t, "one, two", d.Failure.PostFilter)
	require.Equal(t, &framework.Preemption{}, d.Preemption)
	require.Nil(t, run(postFilter{named: "A", status: reject(framework.Unschedulable, "one")}).Preemption, "the nomination stays")
	d = run(postFilter{named: "A", status: framework.AsStatus(fmt.Errorf("broken"))})
	require.Equal(t, "broken", d.Failure.PostFilter)
	require.True(t, d.Failure.Rejected())
}

// extenderOf is an extender of functions.
type extenderOf struct {
	framework.Extender
	verbs     framework.ExtenderVerbs
	ignorable bool
	filter    func(nodes []*framework.NodeInfo) ([]*framework.NodeInfo, map[string]string, map[string]string, error)
	scores    map[string]int64
	bindErr   error
}

func (e *extenderOf) Name() string                   { return "ext" }
func (e *extenderOf) Verbs() framework.ExtenderVerbs { return e.verbs }
func (e *extenderOf) Ignorable() bool                { return e.ignorable }
func (e *extenderOf) Interested(*v1.Pod) bool        { return true }
func (e *extenderOf) Filter(_ context.Context, _ *v1.Pod, nodes []*framework.NodeInfo) ([]*framework.NodeInfo, map[string]string, map[string]string, error) {
	return e.filter(nodes)
}

func (e *extenderOf) Prioritize(context.Context, *v1.Pod, []*framework.NodeInfo) (map[string]int64, int64, error) {
	return e.scores, 2, nil
}
func (e *extenderOf) Bind(context.Context, *v1.Binding) error { return e.bindErr }

func TestExtenders(t *testing.T) {
	var seen []*framework.Status
	p := profileOf(t, only("X", "n0", "n1", "n2"), postFilter{named: "P", seen: &seen, status: framework.NewStatus(framework.Unschedulable)})
	first := &extenderOf{verbs: framework.ExtenderVerbs{Filter: true}, filter: func(nodes []*framework.NodeInfo) ([]*framework.NodeInfo, map[string]string, map[string]string, error) {
		return nodes[1:], map[string]string{"n0": "no gpu"}, nil, nil
	}}
	second := &extenderOf{verbs: framework.ExtenderVerbs{Filter: true, Prioritize: true}, scores: map[string]int64{"n1": 3, "n2": 9}, filter: first.filter}
	broken := &extenderOf{verbs: first.verbs, filter: func([]*framework.NodeInfo) ([]*framework.NodeInfo, map[string]string, map[string]string, error) {
		return nil, nil, nil, fmt.Errorf("broken")
	}}
	run := func(extenders ...framework.Extender) Decision {
		p.extenders = extenders
		return newCore().Schedule(t.Context(), p, podOf("p", 0), "", snapshotOf(4))
	}
	require.Equal(t, "n2", run(first, second).Node)
	second.filter = func(nodes []*framework.NodeInfo) ([]*framework.NodeInfo, map[string]string, map[string]string, error) {
		return nodes, nil, nil, nil
	}
	require.Equal(t, "n2", run(first, second).Node, "by its score")
	require.EqualError(t, run(first, broken).Failure, "broken")
	broken.ignorable = true
	require.Equal(t, "n2", run(first, broken, second).Node)
	second.filter = func([]*framework.NodeInfo) ([]*framework.NodeInfo, map[string]string, map[string]string, error) {
		return nil, map[string]string{"n1": "no gpu", "n2": "no gpu"}, map[string]string{"n2": "no driver"}, nil
	}
	d := run(first, second)
	require.EqualError(t, d.Failure, "0/4 nodes are available: 1 no driver, 1 node(s) were not X, 2 no gpu.")
	require.Contains(t, d.Failure.RejectedBy, framework.ExtenderName)
	require.Equal(t, framework.UnschedulableAndUnresolvable, seen[2].Code())
}

func TestPlacement(t *testing.T) {
	var calls []string
	a, b := reserver{named: "A", calls: &calls}, reserver{named: "B", calls: &calls, status: reject(framework.Unschedulable, "taken")}
	place := func(plugins ...framework.Plugin) *Placement {
		calls = nil
		return &Placement{Profile: profileOf(t, plugins...), State: framework.NewCycleState(), Pod: podOf("p", 0).Pod, Node: "n"}
	}
	st := place(a, b).Reserve(t.Context())
	require.Equal(t, "B", st.Plugin())
	require.Equal(t, []string{"reserve A", "reserve B", "unreserve B", "unreserve A"}, calls)
	require.EqualError(t, FailureOf(st), "0/1 nodes are available: 1 taken.")

	wait := framework.NewStatus(framework.Wait)
	waits, st := place(permitter{named: "A", status: wait, wait: 1}, permitter{named: "B", status: wait, wait: 100 * maxPermitWait}, permitter{named: "C"}).Permit(t.Context())
	require.Nil(t, st)
	require.Len(t, waits, 2)
	require.Equal(t, maxPermitWait, waits["B"])
	_, st = place(permitter{named: "A", status: wait}, permitter{named: "B", status: reject(framework.Unschedulable, "no")}).Permit(t.Context())
	require.Equal(t, "B", st.Plugin())

	p := place()
	p.Profile.bind = []framework.Bind{binder{"S", framework.NewStatus(framework.Skip), &calls}, binder{"T", nil, &calls}, binder{"U", nil, &calls}}
	require.Nil(t, p.Bind(t.Context()))
	require.Equal(t, []string{"bind S p n", "bind T p n"}, calls)
	p.Profile.extenders = []framework.Extender{&extenderOf{verbs: framework.ExtenderVerbs{Bind: true}, bindErr: fmt.Errorf("refused")}}
	require.EqualError(t, p.Bind(t.Context()).Err(), "refused")
	p.Profile.extenders[0].(*extenderOf).ignorable = true
	require.Nil(t, p.Bind(t.Context()))
}

func TestParallel(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	seen := make([]int, 1000)
	parallel(16, len(seen), func(i int) bool { seen[i]++; return true })
	for i, n := range seen {
		require.Equal(t, 1, n, i)
	}
	calls := 0
	parallel(1, 10, func(i int) bool { calls++; return i < 3 })
	require.Equal(t, 4, calls)
	parallel(4, 0, func(int) bool { panic("called") })
}
