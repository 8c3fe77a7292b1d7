package plugins

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

const (
	unevenReason    = "U: node(s) didn't match pod topology spread constraints"
	unlabeledReason = "UU: node(s) didn't match pod topology spread constraints (missing required label)"
)

func testTopologySpread() *podTopologySpread {
	return newPodTopologySpread(&config.PodTopologySpreadArgs{DefaultingType: config.ListDefaulting})
}

// spreadBy adds a constraint over the pods with the label app=a.
func spreadBy(key string, skew int32, when v1.UnsatisfiableConstraintAction, change ...func(*v1.TopologySpreadConstraint)) func(*v1.Pod) {
	return func(p *v1.Pod) {
		c := v1.TopologySpreadConstraint{MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: set{"app": "a"}}}
		for _, f := range change {
			f(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

// some makes pods with the label app=a on nodes.
func some(nodes ...string) (out []*v1.Pod) {
	for i, n := range nodes {
		out = append(out, newPod(fmt.Sprintf("s%d", i), podLabels("app", "a"), onto(n)))
	}
	return out
}

func TestPodTopologySpreadFilter(t *testing.T) {
	// Nodes a and b are in zone 1, c is in zone 2, d in none.
	nodes := []*v1.Node{
		newNode("a", labelled(zoneKey, "1")), newNode("b", labelled(zoneKey, "1", "disk", "ssd")),
		newNode("c", labelled(zoneKey, "2"), tainted("k", "", v1.TaintEffectNoSchedule)), newNode("d"),
	}
	const hard = v1.DoNotSchedule
	app := podLabels("app", "a")
	honor := func(c *v1.TopologySpreadConstraint) { c.NodeTaintsPolicy = ptr.To(v1.NodeInclusionPolicyHonor) }
	ssd := func(p *v1.Pod) { p.Spec.NodeSelector = set{"disk": "ssd"} }
	version := func(c *v1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"version"} }
	for name, c := range map[string]struct {
		pods []*v1.Pod
		pod  *v1.Pod
		want []string
	}{
		"no constraints":      {some("a"), newPod("p", app), []string{"", "", "", ""}},
		"soft ones":           {some("a"), newPod("p", app, spreadBy(zoneKey, 1, v1.ScheduleAnyway)), []string{"", "", "", ""}},
		"empty":               {nil, newPod("p", app, spreadBy(zoneKey, 1, hard)), []string{"", "", "", unlabeledReason}},
		"one in a zone":       {some("a"), newPod("p", app, spreadBy(zoneKey, 1, hard)), []string{unevenReason, unevenReason, "", unlabeledReason}},
		"even":                {some("a", "c"), newPod("p", app, spreadBy(zoneKey, 1, hard)), []string{"", "", "", unlabeledReason}},
		"more skew":           {some("a"), newPod("p", app, spreadBy(zoneKey, 2, hard)), []string{"", "", "", unlabeledReason}},
		"not of its own kind": {some("a"), newPod("p", spreadBy(zoneKey, 1, hard)), []string{"", "", "", unlabeledReason}},
		"by host":             {some("a", "c"), newPod("p", app, spreadBy(v1.LabelHostname, 1, hard)), []string{unevenReason, "", unevenReason, ""}},
		"both": {
			some("a", "c"), newPod("p", app, spreadBy(v1.LabelHostname, 1, hard), spreadBy(zoneKey, 1, hard)),
			// Node d does not count: it is in no zone.
			[]string{unevenReason, "", unevenReason, unlabeledReason},
		},
		"too few domains": {
			some("a", "c"), newPod("p", app, spreadBy(zoneKey, 1, hard, func(c *v1.TopologySpreadConstraint) { c.MinDomains = ptr.To[int32](3) })),
			[]string{unevenReason, unevenReason, unevenReason, unlabeledReason},
		},
		"a tainted zone counts":           {some("a"), newPod("p", app, spreadBy(zoneKey, 1, hard)), []string{unevenReason, unevenReason, "", unlabeledReason}},
		"a tainted zone does not count":   {some("a"), newPod("p", app, spreadBy(zoneKey, 1, hard, honor)), []string{"", "", "", unlabeledReason}},
		"nodes out of reach do not count": {some("a", "a"), newPod("p", app, ssd, spreadBy(v1.LabelHostname, 1, hard)), []string{"", "", "", ""}},
		"nodes out of reach count": {
			some("b", "b"), newPod("p", app, ssd, spreadBy(v1.LabelHostname, 1, hard, func(c *v1.TopologySpreadConstraint) {
				c.NodeAffinityPolicy = ptr.To(v1.NodeInclusionPolicyIgnore)
			})),
			[]string{"", unevenReason, "", ""},
		},
		"of one version": {
			[]*v1.Pod{newPod("x", app, podLabels("version", "1"), onto("a")), newPod("y", app, podLabels("version", "2"), onto("c"))},
			newPod("p", app, podLabels("version", "1"), spreadBy(zoneKey, 1, hard, version)),
			[]string{unevenReason, unevenReason, "", unlabeledReason},
		},
		"pods that go away": {
			[]*v1.Pod{newPod("x", app, onto("a"), func(p *v1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Unix(1, 0)) })},
			newPod("p", app, spreadBy(zoneKey, 1, hard)),
			[]string{"", "", "", unlabeledReason},
		},
		"pods of others": {
			[]*v1.Pod{newPod("x", app, onto("a"), inNamespace("other"))},
			newPod("p", app, spreadBy(zoneKey, 1, hard)),
			[]string{"", "", "", unlabeledReason},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, say(filterAll(t, testTopologySpread(), c.pod, newSnapshot(nil, nodes, c.pods...))...))
		})
	}
}

func TestPodTopologySpreadUnreadable(t *testing.T) {
	pod := newPod("p", spreadBy(zoneKey, 1, v1.DoNotSchedule, func(c *v1.TopologySpreadConstraint) { c.LabelSelector.MatchLabels = set{"a b": ""} }))
	s := filterAll(t, testTopologySpread(), pod, newSnapshot(nil, []*v1.Node{newNode("a")}))[0]
	require.Equal(t, framework.Error, s.Code())
	require.ErrorContains(t, s.Err(), "get constraints from pod: obtaining pod's hard topology spread constraints: ")
}

func TestPodTopologySpreadDefaults(t *testing.T) {
	nodes := []*v1.Node{newNode("a", labelled(zoneKey, "1")), newNode("b", labelled(zoneKey, "1")), newNode("c", labelled(zoneKey, "2")), newNode("d")}
	owner := &testCluster{owner: labels.SelectorFromSet(labels.Set{"app": "a"})}
	s := newSnapshot(owner, nodes, some("a", "a", "b", "c")...)
	pod := newPod("p", podLabels("app", "a"))

	hard := newPodTopologySpread(&config.PodTopologySpreadArgs{DefaultingType: config.ListDefaulting, DefaultConstraints: []v1.TopologySpreadConstraint{
		{TopologyKey: zoneKey, MaxSkew: 1, WhenUnsatisfiable: v1.DoNotSchedule},
	}})
	require.Equal(t, []string{unevenReason, unevenReason, "", unlabeledReason}, say(filterAll(t, hard, pod, s)...))
	require.Equal(t, []string{"", "", "", ""}, say(filterAll(t, hard, pod, newSnapshot(nil, nodes, some("a", "a")...))...), "a pod without an owner")
	own := newPod("p", podLabels("app", "a"), spreadBy(v1.LabelHostname, 5, v1.ScheduleAnyway))
	require.Equal(t, []string{"", "", "", ""}, say(filterAll(t, hard, own, s)...), "a pod with constraints of its own")

	system := newPodTopologySpread(&config.PodTopologySpreadArgs{DefaultingType: config.SystemDefaulting})
	require.Equal(t, []string{"", "", "", ""}, say(filterAll(t, system, pod, s)...))
	// Hosts weigh log 6, zones log 5 for there are 1, 2 and none; the skews add 2 and 4, to d only the former.
	require.Equal(t, []int64{14, 21, 50, 100}, scoreAll(t, system, pod, s))
}

// slowSpread is what the API says about constraints, straight and slow.
type slowSpread struct {
	pod   *v1.Pod
	nodes []*framework.NodeInfo
	kind  v1.UnsatisfiableConstraintAction
}

func (o *slowSpread) constraints() (out []v1.TopologySpreadConstraint) {
	for _, c := range o.pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == o.kind {
			out = append(out, c)
		}
	}
	return out
}

// like counts the pods on a node that a constraint is about.
func (o *slowSpread) like(c *v1.TopologySpreadConstraint, n *framework.NodeInfo) (count int) {
	if c.LabelSelector == nil {
		return 0
	}
	for _, p := range n.Pods {
		if p.Pod.Namespace == o.pod.Namespace && p.Pod.DeletionTimestamp == nil && o.alike(c, p.Pod, false) {
			count++
		}
	}
	return count
}

func (o *slowSpread) alike(c *v1.TopologySpreadConstraint, p *v1.Pod, self bool) bool {
	s, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
	keys := 0
	for _, k := range c.MatchLabelKeys {
		if v, ok := o.pod.Labels[k]; ok {
			keys++
			if have, ok := p.Labels[k]; !ok || have != v {
				return false
			}
		}
	}
	// A selector without any requirement counts only the pod itself.
	return s.Matches(labels.Set(p.Labels)) && (self || !s.Empty() || keys > 0)
}

func (o *slowSpread) qualifies(n *v1.Node) bool {
	for _, c := range o.constraints() {
		if _, ok := n.Labels[c.TopologyKey]; !ok {
			return false
		}
	}
	return true
}

func (o *slowSpread) counted(c *v1.TopologySpreadConstraint, n *v1.Node) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor {
		if !labels.SelectorFromSet(o.pod.Spec.NodeSelector).Matches(labels.Set(n.Labels)) {
			return false
		}
	}
	if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor {
		for _, t := range n.Spec.Taints {
			if t.Effect != v1.TaintEffectPreferNoSchedule && len(o.pod.Spec.Tolerations) == 0 {
				return false
			}
		}
	}
	return o.qualifies(n)
}

func (o *slowSpread) filter(node *v1.Node) string {
	for _, c := range o.constraints() {
		value, ok := node.Labels[c.TopologyKey]
		if !ok {
			return unlabeledReason
		}
		counts := map[string]int{}
		for _, n := range o.nodes {
			if o.counted(&c, n.Node()) {
				counts[n.Node().Labels[c.TopologyKey]] += o.like(&c, n)
			}
		}
		least := math.MaxInt32
		for _, n := range counts {
			least = min(least, n)
		}
		if len(counts) < int(ptr.Deref(c.MinDomains, 1)) {
			least = 0
		}
		skew := counts[value] - least
		if o.alike(&c, o.pod, true) {
			skew++
		}
		if skew > int(c.MaxSkew) {
			return unevenReason
		}
	}
	return ""
}

func TestPodTopologySpreadFilterAgainstDefinition(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(2000) {
		m := newMaker(seed)
		nodes := m.nodes(1 + m.IntN(9))
		s := newSnapshot(m.cluster(), nodes, m.pods(m.IntN(30), nodes)...)
		pod := m.pod("new", "")
		pod.Namespace = "default"
		got := say(filterAll(t, testTopologySpread(), pod, s)...)
		o := &slowSpread{pod, s.Nodes(), v1.DoNotSchedule}
		for i, n := range s.Nodes() {
			want := o.filter(n.Node())
			require.Equal(t, want, got[i], "seed %d node %s", seed, n.Name())
			seen[want]++
		}
	}
	require.Len(t, seen, 3)
	require.Greater(t, seen[unevenReason], 200)
}

func TestPodTopologySpreadKeepsUpWithPods(t *testing.T) {
	checked := 0
	for seed := range uint64(2000) {
		m := newMaker(seed)
		nodes := m.nodes(1 + m.IntN(6))
		s := newSnapshot(m.cluster(), nodes, m.pods(m.IntN(30), nodes)...)
		p, state, pod := testTopologySpread(), framework.NewCycleState(), info(m.pod("new", ""))
		if _, status := p.PreFilter(state, pod, s); status.IsSkip() {
			continue
		}
		before := say(filterWith(p, state, pod, s)...)
		now := append([]*framework.NodeInfo(nil), s.Nodes()...)
		changed := state.Clone()
		for i := range now {
			if m.chance(40) {
				now[i] = m.change(p, changed, pod, now[i], []*v1.Pod{m.pod(fmt.Sprintf("more%d", i), now[i].Name())})
			}
		}
		o := &slowSpread{pod.Pod, now, v1.DoNotSchedule}
		for _, n := range now {
			require.Equal(t, []string{o.filter(n.Node())}, say(p.Filter(changed, pod, n)), "seed %d node %s", seed, n.Name())
			checked++
		}
		require.Equal(t, before, say(filterWith(p, state, pod, s)...), "a clone changed the original")
	}
	require.Greater(t, checked, 1000)
}

// scores are those of all nodes, of which all fit.
func (o *slowSpread) scores() []int64 {
	constraints := o.constraints()
	if len(constraints) == 0 {
		return nil
	}
	var qualified []int
	for i, n := range o.nodes {
		if o.qualifies(n.Node()) {
			qualified = append(qualified, i)
		}
	}
	out := make([]int64, len(o.nodes))
	sums := make([]float64, len(o.nodes))
	for _, c := range constraints {
		host := c.TopologyKey == v1.LabelHostname
		counts, domains := map[string]int{}, map[string]bool{}
		for _, n := range o.nodes {
			if o.counted(&c, n.Node()) {
				counts[n.Node().Labels[c.TopologyKey]] += o.like(&c, n)
			}
		}
		for _, i := range qualified {
			domains[o.nodes[i].Node().Labels[c.TopologyKey]] = true
		}
		weight := math.Log(float64(len(domains) + 2))
		if host {
			weight = math.Log(float64(len(qualified) + 2))
		}
		for _, i := range qualified {
			count := counts[o.nodes[i].Node().Labels[c.TopologyKey]]
			if host {
				count = o.like(&c, o.nodes[i])
			}
			sums[i] += float64(count)*weight + float64(c.MaxSkew-1)
		}
	}
	least, most := int64(math.MaxInt64), int64(0)
	for _, i := range qualified {
		out[i] = int64(math.Round(sums[i]))
		least, most = min(least, out[i]), max(most, out[i])
	}
	for _, i := range qualified {
		if most == 0 {
			out[i] = 100
			continue
		}
		out[i] = 100 * (most + least - out[i]) / most
	}
	return out
}

func TestPodTopologySpreadScoreAgainstDefinition(t *testing.T) {
	scored := 0
	for seed := range uint64(2000) {
		m := newMaker(seed)
		nodes := m.nodes(1 + m.IntN(9))
		s := newSnapshot(m.cluster(), nodes, m.pods(m.IntN(30), nodes)...)
		pod := m.pod("new", "")
		pod.Namespace = "default"
		want := (&slowSpread{pod, s.Nodes(), v1.ScheduleAnyway}).scores()
		require.Equal(t, want, scoreAll(t, testTopologySpread(), pod, s), "seed %d", seed)
		if want != nil {
			scored++
		}
	}
	require.Greater(t, scored, 500)
}

func TestPodTopologySpreadHints(t *testing.T) {
	app, other := podLabels("app", "a"), podLabels("app", "b")
	pod := newPod("p", app, spreadBy(zoneKey, 1, v1.DoNotSchedule))
	honoring := newPod("p", app, spreadBy(zoneKey, 1, v1.DoNotSchedule, func(c *v1.TopologySpreadConstraint) { c.NodeTaintsPolicy = ptr.To(v1.NodeInclusionPolicyHonor) }))
	event := func(r framework.Resource, a framework.Action) framework.Event {
		return framework.Event{Resource: r, Action: a}
	}
	added, gone, relabelled := event(framework.AssignedPod, framework.Add), event(framework.AssignedPod, framework.Delete), event(framework.AssignedPod, framework.UpdatePodLabel)
	newcomer, moved, left := event(framework.Node, framework.Add), event(framework.Node, framework.UpdateNodeLabel), event(framework.Node, framework.Delete)
	retainted, tolerant := event(framework.Node, framework.UpdateNodeTaint), event(framework.TargetPod, framework.UpdatePodToleration)
	zone := func(z string) *v1.Node { return newNode("n", labelled(zoneKey, z)) }
	for name, c := range map[string]struct {
		pod   *v1.Pod
		event framework.Event
		old   any
		now   any
		want  bool
	}{
		"one of its kind comes":     {pod, added, nil, newPod("x", app, onto("a")), true},
		"another comes":             {pod, added, nil, newPod("x", other, onto("a")), false},
		"one of others comes":       {pod, added, nil, newPod("x", app, onto("a"), inNamespace("other")), false},
		"one without a node comes":  {pod, added, nil, newPod("x", app), false},
		"one of its kind goes":      {pod, gone, newPod("x", app, onto("a")), nil, true},
		"another goes":              {pod, gone, newPod("x", other, onto("a")), nil, false},
		"one of its kind changes":   {pod, relabelled, newPod("x", app, onto("a")), newPod("x", other, onto("a")), true},
		"another changes":           {pod, relabelled, newPod("x", other, onto("a")), newPod("x", onto("a")), false},
		"a node comes":              {pod, newcomer, nil, zone("1"), true},
		"a node of no zone comes":   {pod, newcomer, nil, newNode("n"), false},
		"a node goes":               {pod, left, zone("1"), nil, true},
		"a node of no zone goes":    {pod, left, newNode("n"), nil, false},
		"a node moves":              {pod, moved, zone("1"), zone("2"), true},
		"a node moves into a zone":  {pod, moved, newNode("n"), zone("2"), true},
		"a node stays":              {pod, moved, zone("1"), zone("1"), false},
		"a node of no zone changes": {pod, moved, newNode("n"), newNode("n", labelled("x", "y")), false},
		"a taint goes":              {pod, retainted, newNode("n", labelled(zoneKey, "1"), tainted("k", "", v1.TaintEffectNoSchedule)), zone("1"), true},
		"a toleration of no use":    {pod, tolerant, pod, newPod("p", app, tolerating(v1.Toleration{Key: "k"})), false},
		"a toleration":              {honoring, tolerant, honoring, newPod("p", app, tolerating(v1.Toleration{Key: "k"})), true},
		"a label of the pod":        {pod, event(framework.TargetPod, framework.UpdatePodLabel), pod, newPod("p", other), true},
	} {
		require.Equal(t, c.want, helps(testTopologySpread(), c.pod, c.event, framework.Change{Old: c.old, New: c.now}), name)
	}
	byDefault := newPodTopologySpread(&config.PodTopologySpreadArgs{DefaultingType: config.ListDefaulting, DefaultConstraints: []v1.TopologySpreadConstraint{
		{TopologyKey: zoneKey, MaxSkew: 1, WhenUnsatisfiable: v1.DoNotSchedule},
	}})
	require.True(t, helps(byDefault, newPod("p"), added, framework.Change{New: newPod("x", other, onto("a"))}))
	require.False(t, helps(testTopologySpread(), newPod("p"), added, framework.Change{New: newPod("x", other, onto("a"))}))
}
