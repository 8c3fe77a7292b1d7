package plugins

import (
	"testing"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

func tolerating(t ...v1.Toleration) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, t...) }
}

func TestTaintTolerationFilter(t *testing.T) {
	const no = "UU: node(s) had untolerated taint(s)"
	for name, c := range map[string]struct {
		effect     v1.TaintEffect
		toleration v1.Toleration
		want       string
	}{
		"none":           {v1.TaintEffectNoSchedule, v1.Toleration{Key: "other"}, no},
		"no execute":     {v1.TaintEffectNoExecute, v1.Toleration{Key: "other"}, no},
		"soft":           {v1.TaintEffectPreferNoSchedule, v1.Toleration{Key: "other"}, ""},
		"equal":          {v1.TaintEffectNoSchedule, v1.Toleration{Key: "k", Value: "v", Effect: v1.TaintEffectNoSchedule}, ""},
		"other value":    {v1.TaintEffectNoSchedule, v1.Toleration{Key: "k", Value: "w", Operator: v1.TolerationOpEqual}, no},
		"other effect":   {v1.TaintEffectNoSchedule, v1.Toleration{Key: "k", Value: "v", Effect: v1.TaintEffectNoExecute}, no},
		"exists":         {v1.TaintEffectNoSchedule, v1.Toleration{Key: "k", Operator: v1.TolerationOpExists}, ""},
		"every":          {v1.TaintEffectNoExecute, v1.Toleration{Operator: v1.TolerationOpExists}, ""},
		"unknown":        {v1.TaintEffectNoSchedule, v1.Toleration{Key: "k", Value: "v", Operator: "Like"}, no},
		"any key equals": {v1.TaintEffectNoSchedule, v1.Toleration{Value: "v"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSnapshot(nil, []*v1.Node{newNode("a", tainted("k", "v", c.effect)), newNode("b")})
			require.Equal(t, []string{c.want, ""}, say(filterAll(t, newTaintToleration(), newPod("p", tolerating(c.toleration)), s)...))
		})
	}
}

func TestTaintTolerationScore(t *testing.T) {
	soft := v1.TaintEffectPreferNoSchedule
	s := newSnapshot(nil, []*v1.Node{
		newNode("none"), newNode("one", tainted("a", "", soft), tainted("hard", "", v1.TaintEffectNoSchedule)), newNode("two", tainted("a", "", soft), tainted("b", "", soft)),
	})
	require.Equal(t, []int64{100, 50, 0}, scoreAll(t, newTaintToleration(), newPod("p"), s))
	require.Equal(t, []int64{100, 100, 0}, scoreAll(t, newTaintToleration(), newPod("p", tolerating(v1.Toleration{Key: "a"})), s))
	require.Equal(t, []int64{100, 50, 0}, scoreAll(t, newTaintToleration(), newPod("p", tolerating(v1.Toleration{Key: "a", Effect: v1.TaintEffectNoExecute})), s))
	require.Equal(t, []int64{100, 100, 100}, scoreAll(t, newTaintToleration(), newPod("p", tolerating(v1.Toleration{Operator: v1.TolerationOpExists})), s))
}

func TestTaintTolerationHints(t *testing.T) {
	p, pod := newTaintToleration(), newPod("p")
	dirty, clean := newNode("a", tainted("k", "", v1.TaintEffectNoSchedule)), newNode("a")
	update := framework.Event{Resource: framework.Node, Action: framework.UpdateNodeTaint}
	require.True(t, helps(p, pod, update, framework.Change{Old: dirty, New: clean}))
	require.False(t, helps(p, pod, update, framework.Change{Old: clean, New: clean}))
	require.False(t, helps(p, pod, update, framework.Change{Old: clean, New: dirty}))
	require.True(t, helps(p, pod, framework.Event{Resource: framework.Node, Action: framework.Add}, framework.Change{New: clean}))
	require.False(t, helps(p, pod, framework.Event{Resource: framework.Node, Action: framework.UpdateNodeLabel}, framework.Change{Old: dirty, New: clean}))
	require.True(t, helps(p, pod, framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodToleration}, framework.Change{}))
}
