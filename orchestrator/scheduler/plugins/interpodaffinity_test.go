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
	farReason       = "UU: node(s) didn't match pod affinity rules"
	nearReason      = "U: node(s) didn't match pod anti-affinity rules"
	unwelcomeReason = "U: node(s) didn't satisfy existing pods anti-affinity rules"
)

// oneTerm makes a term that selects pods by the label app.
func oneTerm(app, key string) v1.PodAffinityTerm {
	return v1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: set{"app": app}}}
}

func near(terms ...v1.PodAffinityTerm) func(*v1.Pod) {
	return func(p *v1.Pod) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &v1.Affinity{}
		}
		p.Spec.Affinity.PodAffinity = &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}
	}
}

func notNear(terms ...v1.PodAffinityTerm) func(*v1.Pod) {
	return func(p *v1.Pod) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &v1.Affinity{}
		}
		p.Spec.Affinity.PodAntiAffinity = &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}
	}
}

func testInterPodAffinity() *interPodAffinity {
	return newInterPodAffinity(&config.InterPodAffinityArgs{HardPodAffinityWeight: ptr.To[int32](1)})
}

func TestInterPodAffinityFilter(t *testing.T) {
	// Nodes a and b are in zone 1, c is in zone 2, d in none.
	nodes := []*v1.Node{newNode("a", labelled(zoneKey, "1")), newNode("b", labelled(zoneKey, "1")), newNode("c", labelled(zoneKey, "2")), newNode("d")}
	other := func(t v1.PodAffinityTerm, change func(*v1.PodAffinityTerm)) v1.PodAffinityTerm {
		change(&t)
		return t
	}
	db, web := podLabels("app", "db"), podLabels("app", "web")
	for name, c := range map[string]struct {
		pods []*v1.Pod
		pod  *v1.Pod
		want []string
	}{
		"nothing": {pod: newPod("p"), want: []string{"", "", "", ""}},
		"near, in a zone": {
			[]*v1.Pod{newPod("x", db, onto("a"))}, newPod("p", near(oneTerm("db", zoneKey))),
			[]string{"", "", farReason, farReason},
		},
		"near, on a host": {
			[]*v1.Pod{newPod("x", db, onto("a"))}, newPod("p", near(oneTerm("db", v1.LabelHostname))),
			[]string{"", farReason, farReason, farReason},
		},
		"near nobody": {
			nil, newPod("p", near(oneTerm("db", zoneKey))),
			[]string{farReason, farReason, farReason, farReason},
		},
		"the first of its kind needs the label": {
			nil, newPod("p", db, near(oneTerm("db", zoneKey))),
			[]string{"", "", "", farReason},
		},
		"not the first of its kind": {
			[]*v1.Pod{newPod("x", db, onto("c"))}, newPod("p", db, near(oneTerm("db", zoneKey))),
			[]string{farReason, farReason, "", farReason},
		},
		"a friend without a domain is none": {
			[]*v1.Pod{newPod("x", db, onto("d"))}, newPod("p", db, near(oneTerm("db", zoneKey))),
			[]string{"", "", "", farReason},
		},
		"one pod must match all terms": {
			[]*v1.Pod{newPod("x", db, onto("a")), newPod("y", web, onto("a"))}, newPod("p", near(oneTerm("db", zoneKey), oneTerm("web", zoneKey))),
			[]string{farReason, farReason, farReason, farReason},
		},
		"not near": {
			[]*v1.Pod{newPod("x", db, onto("a"))}, newPod("p", notNear(oneTerm("db", zoneKey))),
			[]string{nearReason, nearReason, "", ""},
		},
		"near and not near": {
			[]*v1.Pod{newPod("x", db, onto("a")), newPod("y", web, onto("a"))},
			newPod("p", near(oneTerm("db", zoneKey)), notNear(oneTerm("web", v1.LabelHostname))),
			[]string{nearReason, "", farReason, farReason},
		},
		"hated": {
			[]*v1.Pod{newPod("x", onto("c"), notNear(oneTerm("db", zoneKey)))}, newPod("p", db),
			[]string{"", "", unwelcomeReason, ""},
		},
		"hated elsewhere": {
			[]*v1.Pod{newPod("x", onto("c"), notNear(oneTerm("db", zoneKey)))}, newPod("p", db, inNamespace("other")),
			[]string{"", "", "", ""},
		},
		"hated by namespace": {
			[]*v1.Pod{newPod("x", onto("c"), notNear(other(oneTerm("db", zoneKey), func(t *v1.PodAffinityTerm) { t.Namespaces = []string{"other"} })))},
			newPod("p", db, inNamespace("other")),
			[]string{"", "", unwelcomeReason, ""},
		},
		"near, by the labels of namespaces": {
			[]*v1.Pod{newPod("x", db, onto("a"), inNamespace("other")), newPod("y", db, onto("c"), inNamespace("bare"))},
			newPod("p", near(other(oneTerm("db", zoneKey), func(t *v1.PodAffinityTerm) {
				t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: set{"team": "b"}}
			}))),
			[]string{"", "", farReason, farReason},
		},
		"near, in any namespace": {
			[]*v1.Pod{newPod("x", db, onto("a"), inNamespace("other")), newPod("y", db, onto("c"), inNamespace("bare"))},
			newPod("p", near(other(oneTerm("db", zoneKey), func(t *v1.PodAffinityTerm) { t.NamespaceSelector = &metav1.LabelSelector{} }))),
			[]string{"", "", "", farReason},
		},
		"unreadable": {
			pod: newPod("p", near(v1.PodAffinityTerm{TopologyKey: zoneKey, LabelSelector: &metav1.LabelSelector{MatchLabels: set{"a b": "c"}}})),
			want: func() []string {
				const text = `UU: parsing pod: requiredAffinityTerms: key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`
				return []string{text, text, text, text}
			}(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSnapshot(newMaker(1).cluster(), nodes, c.pods...)
			require.Equal(t, c.want, say(filterAll(t, testInterPodAffinity(), c.pod, s)...))
		})
	}
}

// slowTerm tells, from the API's definition, whether a term of the owner selects a pod.
func slowTerm(c *testCluster, owner *v1.Pod, t *v1.PodAffinityTerm, pod *v1.Pod, ownNamespacesExist bool) bool {
	in := len(t.Namespaces) == 0 && t.NamespaceSelector == nil && owner.Namespace == pod.Namespace
	for _, ns := range t.Namespaces {
		in = in || ns == pod.Namespace
	}
	if !in && t.NamespaceSelector != nil {
		s, _ := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		of, exists := c.namespaces[pod.Namespace]
		in = s.Matches(of) && (exists || s.Empty() || !ownNamespacesExist)
	}
	s, _ := metav1.LabelSelectorAsSelector(t.LabelSelector)
	return in && s.Matches(labels.Set(pod.Labels))
}

func slowMatchesAll(c *testCluster, owner *v1.Pod, pod *v1.Pod) bool {
	terms := requiredTerms(owner)
	for i := range terms {
		if !slowTerm(c, owner, &terms[i], pod, true) {
			return false
		}
	}
	return len(terms) > 0
}

func requiredTerms(p *v1.Pod) []v1.PodAffinityTerm {
	if p.Spec.Affinity == nil || p.Spec.Affinity.PodAffinity == nil {
		return nil
	}
	return p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
}

func requiredAntiTerms(p *v1.Pod) []v1.PodAffinityTerm {
	if p.Spec.Affinity == nil || p.Spec.Affinity.PodAntiAffinity == nil {
		return nil
	}
	return p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
}

// together tells whether two nodes lie in one domain.
func together(a, b *v1.Node, key string) bool {
	x, okA := a.Labels[key]
	y, okB := b.Labels[key]
	return okA && okB && x == y
}

// slowAffinity is the filter as the API defines it, over all pairs of pods.
func slowAffinity(c *testCluster, pod *v1.Pod, node *v1.Node, nodes []*framework.NodeInfo) string {
	friendAnywhere, near := false, true
	for _, t := range requiredTerms(pod) {
		if _, ok := node.Labels[t.TopologyKey]; !ok {
			return farReason
		}
		found := false
		for _, n := range nodes {
			for _, p := range n.Pods {
				if slowMatchesAll(c, pod, p.Pod) {
					found = found || together(n.Node(), node, t.TopologyKey)
					_, in := n.Node().Labels[t.TopologyKey]
					friendAnywhere = friendAnywhere || in
				}
			}
		}
		near = near && found
	}
	if !near && (friendAnywhere || !slowMatchesAll(c, pod, pod)) {
		return farReason
	}
	hated := false
	for _, n := range nodes {
		for _, p := range n.Pods {
			for _, t := range requiredAntiTerms(pod) {
				if together(n.Node(), node, t.TopologyKey) && slowTerm(c, pod, &t, p.Pod, true) {
					return nearReason
				}
			}
			for _, t := range requiredAntiTerms(p.Pod) {
				hated = hated || together(n.Node(), node, t.TopologyKey) && slowTerm(c, p.Pod, &t, pod, false)
			}
		}
	}
	if hated {
		return unwelcomeReason
	}
	return ""
}

func TestInterPodAffinityFilterAgainstDefinition(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(3000) {
		m := newMaker(seed)
		c := m.cluster()
		nodes := m.nodes(1 + m.IntN(8))
		s := newSnapshot(c, nodes, m.pods(m.IntN(12), nodes)...)
		pod := m.pod("new", "")
		got := say(filterAll(t, testInterPodAffinity(), pod, s)...)
		for i, n := range s.Nodes() {
			want := slowAffinity(c, pod, n.Node(), s.Nodes())
			require.Equal(t, want, got[i], "seed %d node %s", seed, n.Name())
			seen[want]++
		}
	}
	require.Len(t, seen, 4)
}

func TestInterPodAffinityKeepsUpWithPods(t *testing.T) {
	for seed := range uint64(2000) {
		m := newMaker(seed)
		c := m.cluster()
		nodes := m.nodes(1 + m.IntN(6))
		s := newSnapshot(c, nodes, m.pods(m.IntN(12), nodes)...)
		p, state, pod := testInterPodAffinity(), framework.NewCycleState(), info(m.pod("new", ""))
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
		for _, n := range now {
			require.Equal(t, []string{slowAffinity(c, pod.Pod, n.Node(), now)}, say(p.Filter(changed, pod, n)), "seed %d node %s", seed, n.Name())
		}
		require.Equal(t, before, say(filterWith(p, state, pod, s)...), "a clone changed the original")
	}
}

func filterWith(p framework.Filter, state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) []*framework.Status {
	out := make([]*framework.Status, len(s.Nodes()))
	for i, n := range s.Nodes() {
		out[i] = p.Filter(state, pod, n)
	}
	return out
}

// slowAffinityScores are the scores as they are defined; nil if no term matches any pod in a domain.
func slowAffinityScores(c *testCluster, pod *v1.Pod, nodes []*framework.NodeInfo, hard int64) []int64 {
	sums, any := make([]int64, len(nodes)), false
	add := func(on *v1.Node, key string, weight int64) {
		for i, n := range nodes {
			if together(on, n.Node(), key) {
				sums[i] += weight
				any = true
			}
		}
	}
	preferred := func(p *v1.Pod) (near, far []v1.WeightedPodAffinityTerm) {
		if p.Spec.Affinity == nil {
			return nil, nil
		}
		return p.Spec.Affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, p.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	weigh := func(owner, target *v1.Pod, on *v1.Node, own bool) {
		near, far := preferred(owner)
		for _, t := range near {
			if slowTerm(c, owner, &t.PodAffinityTerm, target, own) {
				add(on, t.PodAffinityTerm.TopologyKey, int64(t.Weight))
			}
		}
		for _, t := range far {
			if slowTerm(c, owner, &t.PodAffinityTerm, target, own) {
				add(on, t.PodAffinityTerm.TopologyKey, -int64(t.Weight))
			}
		}
	}
	for _, n := range nodes {
		for _, p := range n.Pods {
			weigh(pod, p.Pod, n.Node(), true)
			weigh(p.Pod, pod, n.Node(), false)
			for _, t := range requiredTerms(p.Pod) {
				if slowTerm(c, p.Pod, &t, pod, false) {
					add(n.Node(), t.TopologyKey, hard)
				}
			}
		}
	}
	if !any {
		return nil
	}
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range sums {
		least, most = min(least, s), max(most, s)
	}
	for i, s := range sums {
		sums[i] = 0
		if most > least {
			sums[i] = int64(100 * (float64(s-least) / float64(most-least)))
		}
	}
	return sums
}

func TestInterPodAffinityScoreAgainstDefinition(t *testing.T) {
	scored := 0
	for seed := range uint64(3000) {
		m := newMaker(seed)
		c := m.cluster()
		nodes := m.nodes(1 + m.IntN(8))
		s := newSnapshot(c, nodes, m.pods(m.IntN(12), nodes)...)
		pod := m.pod("new", "")
		hard := int32(1 + m.IntN(100))
		p := newInterPodAffinity(&config.InterPodAffinityArgs{HardPodAffinityWeight: &hard})
		want := slowAffinityScores(c, pod, s.Nodes(), int64(hard))
		require.Equal(t, want, scoreAll(t, p, pod, s), "seed %d", seed)
		if want != nil {
			scored++
		}
	}
	require.Greater(t, scored, 500)
}

func TestInterPodAffinityScoreArguments(t *testing.T) {
	nodes := []*v1.Node{newNode("a"), newNode("b")}
	hard := newPod("x", onto("a"), near(oneTerm("db", v1.LabelHostname)))
	soft := newPod("y", onto("b"), func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{
			{Weight: 10, PodAffinityTerm: oneTerm("db", v1.LabelHostname)},
		}}}
	})
	pod := newPod("p", podLabels("app", "db"))
	s := newSnapshot(nil, nodes, hard, soft)
	score := func(weight int32, ignore bool) []int64 {
		return scoreAll(t, newInterPodAffinity(&config.InterPodAffinityArgs{HardPodAffinityWeight: &weight, IgnorePreferredTermsOfExistingPods: ignore}), pod, s)
	}
	require.Equal(t, []int64{0, 100}, score(1, false))
	require.Equal(t, []int64{100, 0}, score(20, false))
	require.Equal(t, []int64{0, 100}, score(0, false))
	require.Nil(t, score(20, true))
}

func TestInterPodAffinityHints(t *testing.T) {
	p := testInterPodAffinity()
	db, web := podLabels("app", "db"), podLabels("app", "web")
	lover, hater, both := newPod("p", near(oneTerm("db", zoneKey))), newPod("p", notNear(oneTerm("db", zoneKey))), newPod("p", db, near(oneTerm("db", zoneKey)))
	anywhere := oneTerm("db", zoneKey)
	anywhere.NamespaceSelector = &metav1.LabelSelector{MatchLabels: set{"team": "b"}}
	event := func(r framework.Resource, a framework.Action) framework.Event {
		return framework.Event{Resource: r, Action: a}
	}
	added, gone, relabelled := event(framework.AssignedPod, framework.Add), event(framework.AssignedPod, framework.Delete), event(framework.AssignedPod, framework.UpdatePodLabel)
	for name, c := range map[string]struct {
		pod   *v1.Pod
		event framework.Event
		old   any
		now   any
		want  bool
	}{
		"a friend comes":               {lover, added, nil, newPod("x", db, onto("a")), true},
		"a stranger comes":             {lover, added, nil, newPod("x", web, onto("a")), false},
		"a friend without a node":      {lover, added, nil, newPod("x", db), false},
		"a friend of another space":    {lover, added, nil, newPod("x", db, onto("a"), inNamespace("other")), false},
		"a friend of some space":       {newPod("p", near(anywhere)), added, nil, newPod("x", db, onto("a"), inNamespace("other")), true},
		"a foe goes":                   {hater, gone, newPod("x", db, onto("a")), nil, true},
		"a stranger goes":              {hater, gone, newPod("x", web, onto("a")), nil, false},
		"a foe comes":                  {hater, added, nil, newPod("x", db, onto("a")), false},
		"one that hated goes":          {newPod("p", db), gone, newPod("x", onto("a"), notNear(oneTerm("db", zoneKey))), nil, true},
		"one that hated others goes":   {newPod("p", web), gone, newPod("x", onto("a"), notNear(oneTerm("db", zoneKey))), nil, false},
		"the last friend goes":         {both, gone, newPod("x", db, onto("a")), nil, true},
		"a friend goes":                {lover, gone, newPod("x", db, onto("a")), nil, false},
		"a stranger becomes a friend":  {lover, relabelled, newPod("x", web, onto("a")), newPod("x", db, onto("a")), true},
		"a foe becomes a stranger":     {hater, relabelled, newPod("x", db, onto("a")), newPod("x", web, onto("a")), true},
		"a stranger becomes a foe":     {hater, relabelled, newPod("x", web, onto("a")), newPod("x", db, onto("a")), false},
		"the pod itself is relabelled": {hater, event(framework.TargetPod, framework.UpdatePodLabel), nil, nil, true},
		"a node comes":                 {lover, event(framework.Node, framework.Add), nil, newNode("a", labelled(zoneKey, "1")), true},
		"a node of no zone comes":      {lover, event(framework.Node, framework.Add), nil, newNode("a"), false},
		"a node comes for a hater":     {hater, event(framework.Node, framework.Add), nil, newNode("a"), true},
		"a node moves":                 {lover, event(framework.Node, framework.UpdateNodeLabel), newNode("a"), newNode("a", labelled(zoneKey, "1")), true},
		"a node stays":                 {lover, event(framework.Node, framework.UpdateNodeLabel), newNode("a"), newNode("a"), false},
		"a node's taint":               {lover, event(framework.Node, framework.UpdateNodeTaint), newNode("a"), newNode("a", labelled(zoneKey, "1")), false},
	} {
		require.Equal(t, c.want, helps(p, c.pod, c.event, framework.Change{Old: c.old, New: c.now}), name)
	}
}
