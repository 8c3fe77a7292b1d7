package core

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

func names[P framework.Plugin](plugins []P) (out []string) {
	for _, p := range plugins {
		out = append(out, p.Name())
	}
	return out
}

func TestProfiles(t *testing.T) {
	constant := func(*framework.NodeInfo) (int64, *framework.Status) { return 0, nil }
	plugins := []framework.Plugin{
		preFilter{filter: only("A")}, only("B"), only("C"), scorer{named: "S", f: constant}, scorer{named: "T", f: constant}, permitter{named: "P"},
	}
	p := profileWith(t, `
  percentageOfNodesToScore: 70
  plugins:
    multiPoint:
      disabled: [{name: '*'}]
      enabled: [{name: Sort}, {name: A}, {name: B}, {name: S, weight: 5}, {name: T}, {name: Bind}, {name: P}]
    filter:
      enabled: [{name: C}, {name: B}]
    permit:
      disabled: [{name: '*'}]
    preScore:
      disabled: [{name: S}]
    score:
      enabled: [{name: T, weight: 7}]
`, plugins...)
	require.Equal(t, []string{"B", "A", "C"}, names(p.filter), "configured anew, then general, then special")
	require.Equal(t, []string{"A"}, names(p.preFilter))
	require.Equal(t, []string{"T"}, names(p.preScore))
	require.Equal(t, []string{"T", "S"}, names(p.score))
	require.Equal(t, []int64{7, 5}, []int64{p.score[0].weight, p.score[1].weight})
	require.Empty(t, p.permit)
	require.Equal(t, int32(70), p.percentage)
	require.True(t, p.Less(&framework.QueuedPod{PodInfo: podOf("a", 2)}, &framework.QueuedPod{PodInfo: podOf("b", 1)}))
}

func TestProfileErrors(t *testing.T) {
	for text, message := range map[string]string{
		"enabled: [{name: Sort}]":                              `at least one bind plugin is needed for profile with scheduler name "default-scheduler"`,
		"enabled: [{name: Bind}]":                              `only one queue sort plugin required for profile with scheduler name "default-scheduler", but got 0`,
		"enabled: [{name: Sort}, {name: Bind}, {name: Other}]": `PreEnqueuePlugin "Other": does not exist`,
		"enabled: [{name: Sort}, {name: Bind}]\n    filter:\n      enabled: [{name: Bind}]": `plugin "Bind" does not extend FilterPlugin plugin`,
	} {
		c := parse(t, "  plugins:\n    multiPoint:\n      disabled: [{name: '*'}]\n      "+text+"\n")
		_, err := NewProfiles(c, factoryOf(), nil)
		require.EqualError(t, err, `profile "default-scheduler": `+message)
	}
}

func TestNodesToFind(t *testing.T) {
	score := []weighted{{scorer{named: "S"}, 1}}
	for _, c := range []struct {
		percentage int32
		nodes      int
		want       int
	}{
		{0, 10, 10}, {0, 99, 99}, {0, 100, 100}, {0, 1000, 420}, {0, 5000, 500}, {0, 6000, 300}, {0, 15000, 750},
		{40, 10, 10}, {40, 1000, 400}, {5, 1000, 100}, {100, 5000, 5000},
	} {
		p := &Profile{percentage: c.percentage, score: score}
		require.Equal(t, c.want, p.nodesToFind(c.nodes), "%d%% of %d", c.percentage, c.nodes)
	}
	require.Equal(t, 1, (&Profile{}).nodesToFind(1000), "nothing ranks them")
}
