package core

import (
	"fmt"
	"math"
	"slices"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// Factory makes the plugin of a name for a profile.
type Factory func(profile *config.Profile, name string) (framework.Plugin, error)

type weighted struct {
	framework.Score
	weight int64
}

// Profile is a scheduler of its own name: plugins by extension point.
type Profile struct {
	Name string
	// percentage of nodes to find before scoring starts; 0 means that it depends on their number.
	percentage int32
	preEnqueue []framework.PreEnqueue
	queueSort  framework.QueueSort
	preFilter  []framework.PreFilter
	filter     []framework.Filter
	postFilter []framework.PostFilter
	preScore   []framework.PreScore
	score      []weighted
	reserve    []framework.Reserve
	permit     []framework.Permit
	preBind    []framework.PreBind
	bind       []framework.Bind
	postBind   []framework.PostBind
	hints      map[string][]framework.Hint
	extenders  []framework.Extender
	// parallelism bounds the goroutines of an attempt.
	parallelism int
}

// NewProfiles builds the profiles of a configuration, by scheduler name.
func NewProfiles(c *config.Configuration, f Factory, extenders []framework.Extender) (map[string]*Profile, error) {
	out := map[string]*Profile{}
	for i := range c.Profiles {
		p, err := newProfile(&c.Profiles[i], f)
		if err != nil {
			return nil, fmt.Errorf("profile %q: %w", c.Profiles[i].SchedulerName, err)
		}
		p.extenders = extenders
		p.parallelism = int(*c.Parallelism)
		p.percentage = *c.PercentageOfNodesToScore
		if own := c.Profiles[i].PercentageOfNodesToScore; own != nil {
			p.percentage = *own
		}
		out[p.Name] = p
	}
	return out, nil
}

func newProfile(c *config.Profile, f Factory) (*Profile, error) {
	b := &builder{profile: c, factory: f, plugins: map[string]framework.Plugin{}}
	s := c.Plugins
	p := &Profile{Name: c.SchedulerName, hints: map[string][]framework.Hint{}}
	p.preEnqueue = collect[framework.PreEnqueue](b, "PreEnqueuePlugin", &s.PreEnqueue)
	sorts := collect[framework.QueueSort](b, "QueueSortPlugin", &s.QueueSort)
	p.preFilter = collect[framework.PreFilter](b, "PreFilterPlugin", &s.PreFilter)
	p.filter = collect[framework.Filter](b, "FilterPlugin", &s.Filter)
	p.postFilter = collect[framework.PostFilter](b, "PostFilterPlugin", &s.PostFilter)
	p.preScore = collect[framework.PreScore](b, "PreScorePlugin", &s.PreScore)
	scores := collect[framework.Score](b, "ScorePlugin", &s.Score)
	p.reserve = collect[framework.Reserve](b, "ReservePlugin", &s.Reserve)
	p.permit = collect[framework.Permit](b, "PermitPlugin", &s.Permit)
	p.preBind = collect[framework.PreBind](b, "PreBindPlugin", &s.PreBind)
	p.bind = collect[framework.Bind](b, "BindPlugin", &s.Bind)
	p.postBind = collect[framework.PostBind](b, "PostBindPlugin", &s.PostBind)
	switch {
	case b.err != nil:
		return nil, b.err
	case len(sorts) != 1:
		return nil, fmt.Errorf("only one queue sort plugin required for profile with scheduler name %q, but got %d", p.Name, len(sorts))
	case len(p.bind) == 0:
		return nil, fmt.Errorf("at least one bind plugin is needed for profile with scheduler name %q", p.Name)
	}
	p.queueSort = sorts[0]
	for name, plugin := range b.plugins {
		if r, ok := plugin.(framework.Requeuer); ok {
			p.hints[name] = r.Hints()
		}
	}
	return p, p.weigh(scores, append(slices.Clone(s.Score.Enabled), s.MultiPoint.Enabled...))
}

// weigh gives every Score plugin its weight, which is 1 if none is set.
func (p *Profile) weigh(scores []framework.Score, configured []config.Plugin) error {
	total := int64(0)
	for _, s := range scores {
		w := int64(1)
		i := slices.IndexFunc(configured, func(c config.Plugin) bool { return c.Name == s.Name() })
		if i >= 0 && configured[i].Weight != nil && *configured[i].Weight != 0 {
			w = int64(*configured[i].Weight)
		}
		if w > (math.MaxInt64-total)/framework.MaxScore {
			return fmt.Errorf("total score of Score plugins could overflow")
		}
		total += w * framework.MaxScore
		p.score = append(p.score, weighted{s, w})
	}
	return nil
}

// Less orders the queue.
func (p *Profile) Less(a, b *framework.QueuedPod) bool { return p.queueSort.Less(a, b) }

// PreEnqueue are the plugins that decide whether a pod may be tried.
func (p *Profile) PreEnqueue() []framework.PreEnqueue { return p.preEnqueue }

// Hints by plugin tell which events help against its rejections.
func (p *Profile) Hints() map[string][]framework.Hint { return p.hints }

type builder struct {
	profile *config.Profile
	factory Factory
	plugins map[string]framework.Plugin
	err     error
}

// plugin makes a plugin once.
func (b *builder) plugin(kind, name string) framework.Plugin {
	if p := b.plugins[name]; p != nil || b.err != nil {
		return p
	}
	p, err := b.factory(b.profile, name)
	if err != nil {
		b.err = fmt.Errorf("%s %q: %w", kind, name, err)
		return nil
	}
	b.plugins[name] = p
	return p
}

// collect lists the plugins of a point: first those of MultiPoint that the point configures anew, in the point's
// order; then the others of MultiPoint; then what only the point enables.
func collect[T framework.Plugin](b *builder, kind string, set *config.PluginSet) []T {
	disabled := map[string]bool{}
	for _, d := range set.Disabled {
		disabled[d.Name] = true
	}
	var general []string
	for _, e := range b.profile.Plugins.MultiPoint.Enabled {
		p := b.plugin(kind, e.Name)
		if _, is := p.(T); is && !disabled["*"] && !disabled[e.Name] {
			general = append(general, e.Name)
		}
	}
	var again, rest []string
	for _, e := range set.Enabled {
		if i := slices.Index(general, e.Name); i >= 0 {
			again = append(again, e.Name)
			general = slices.Delete(general, i, i+1)
		} else {
			rest = append(rest, e.Name)
		}
	}
	var out []T
	for _, name := range slices.Concat(again, general, rest) {
		p := b.plugin(kind, name)
		if b.err != nil {
			return nil
		}
		t, is := p.(T)
		if !is {
			b.err = fmt.Errorf("plugin %q does not extend %s plugin", name, kind)
			return nil
		}
		out = append(out, t)
	}
	return out
}
