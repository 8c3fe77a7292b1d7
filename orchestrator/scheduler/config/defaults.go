package config

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// The names of the plugins.
const (
	SchedulingGates                 = "SchedulingGates"
	PrioritySort                    = "PrioritySort"
	NodeName                        = "NodeName"
	NodeUnschedulable               = "NodeUnschedulable"
	TaintToleration                 = "TaintToleration"
	NodeAffinity                    = "NodeAffinity"
	NodePorts                       = "NodePorts"
	NodeResourcesFit                = "NodeResourcesFit"
	VolumeRestrictions              = "VolumeRestrictions"
	NodeVolumeLimits                = "NodeVolumeLimits"
	VolumeBinding                   = "VolumeBinding"
	VolumeZone                      = "VolumeZone"
	PodTopologySpread               = "PodTopologySpread"
	InterPodAffinity                = "InterPodAffinity"
	DefaultPreemption               = "DefaultPreemption"
	NodeResourcesBalancedAllocation = "NodeResourcesBalancedAllocation"
	ImageLocality                   = "ImageLocality"
	DefaultBinder                   = "DefaultBinder"
)

// DefaultPlugins are the plugins that run unless a profile says otherwise, in their order.
func DefaultPlugins() []Plugin {
	return []Plugin{
		{Name: SchedulingGates},
		{Name: PrioritySort},
		{Name: NodeName},
		{Name: NodeUnschedulable},
		{Name: TaintToleration, Weight: ptr.To[int32](3)},
		{Name: NodeAffinity, Weight: ptr.To[int32](2)},
		{Name: NodePorts},
		{Name: NodeResourcesFit, Weight: ptr.To[int32](1)},
		{Name: VolumeRestrictions},
		{Name: NodeVolumeLimits},
		{Name: VolumeBinding},
		{Name: VolumeZone},
		{Name: PodTopologySpread, Weight: ptr.To[int32](2)},
		{Name: InterPodAffinity, Weight: ptr.To[int32](2)},
		{Name: DefaultPreemption},
		{Name: NodeResourcesBalancedAllocation, Weight: ptr.To[int32](1)},
		{Name: ImageLocality, Weight: ptr.To[int32](1)},
		{Name: DefaultBinder},
	}
}

// Default is the configuration of a scheduler without a file.
func Default() *Configuration {
	c := &Configuration{TypeMeta: metav1.TypeMeta{APIVersion: APIVersion, Kind: Kind}}
	c.setDefaults()
	return c
}

func (c *Configuration) setDefaults() {
	setDefault(&c.Parallelism, 16)
	if len(c.Profiles) == 0 {
		c.Profiles = []Profile{{}}
	}
	if len(c.Profiles) == 1 && c.Profiles[0].SchedulerName == "" {
		c.Profiles[0].SchedulerName = DefaultSchedulerName
	}
	for i := range c.Profiles {
		c.Profiles[i].setDefaults()
	}
	setDefault(&c.PercentageOfNodesToScore, 0)
	setDefault(&c.PodInitialBackoffSeconds, 1)
	setDefault(&c.PodMaxBackoffSeconds, 10)
	setDefault(&c.EnableProfiling, true)
	if *c.EnableProfiling {
		setDefault(&c.EnableContentionProfiling, true)
	}
	c.LeaderElection.setDefaults()
	cc := &c.ClientConnection
	cc.ContentType = orString(cc.ContentType, "application/vnd.kubernetes.protobuf")
	if cc.QPS == 0 {
		cc.QPS = 50
	}
	if cc.Burst == 0 {
		cc.Burst = 100
	}
}

func (l *LeaderElection) setDefaults() {
	setDefault(&l.LeaderElect, true)
	for d, value := range map[*metav1.Duration]time.Duration{&l.LeaseDuration: 15 * time.Second, &l.RenewDeadline: 10 * time.Second, &l.RetryPeriod: 2 * time.Second} {
		if d.Duration == 0 {
			d.Duration = value
		}
	}
	l.ResourceLock = orString(l.ResourceLock, "leases")
	l.ResourceName = orString(l.ResourceName, "kube-scheduler")
	l.ResourceNamespace = orString(l.ResourceNamespace, metav1.NamespaceSystem)
}

func (p *Profile) setDefaults() {
	p.Plugins = mergePlugins(p.Plugins)
	have := map[string]bool{}
	for i := range p.PluginConfig {
		have[p.PluginConfig[i].Name] = true
		setArgDefaults(p.PluginConfig[i].Decoded)
	}
	for _, name := range p.Plugins.names() {
		if have[name] {
			continue
		}
		if args := newArgs(name); args != nil {
			setArgDefaults(args)
			p.PluginConfig = append(p.PluginConfig, PluginConfig{Name: name, Decoded: args})
		}
	}
}

// names are those of all enabled plugins, sorted.
func (p *Plugins) names() []string {
	var out []string
	for _, point := range p.points() {
		for _, e := range point.set.Enabled {
			out = append(out, e.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

type point struct {
	name string
	set  *PluginSet
}

func (p *Plugins) points() []point {
	return []point{
		{"preEnqueue", &p.PreEnqueue}, {"queueSort", &p.QueueSort}, {"preFilter", &p.PreFilter}, {"filter", &p.Filter},
		{"postFilter", &p.PostFilter}, {"preScore", &p.PreScore}, {"score", &p.Score}, {"reserve", &p.Reserve},
		{"permit", &p.Permit}, {"preBind", &p.PreBind}, {"bind", &p.Bind}, {"postBind", &p.PostBind},
		{"multiPoint", &p.MultiPoint}, {"placementGenerate", &p.PlacementGenerate}, {"placementScore", &p.PlacementScore},
		{"podGroupPostFilter", &p.PodGroupPostFilter},
	}
}

// mergePlugins puts a profile's choice over the defaults. Default plugins that are configured anew keep their places.
func mergePlugins(custom *Plugins) *Plugins {
	out := &Plugins{MultiPoint: PluginSet{Enabled: DefaultPlugins()}}
	if custom == nil {
		return out
	}
	theirs := custom.points()
	for i, p := range out.points() {
		*p.set = mergeSet(*p.set, *theirs[i].set)
	}
	return out
}

func mergeSet(base, custom PluginSet) PluginSet {
	out := PluginSet{Disabled: slices.Clone(custom.Disabled)}
	disabled := map[string]bool{}
	for _, d := range custom.Disabled {
		disabled[d.Name] = true
	}
	replaced := map[int]bool{}
	for _, b := range base.Enabled {
		if disabled["*"] || disabled[b.Name] {
			continue
		}
		for i := len(custom.Enabled) - 1; i >= 0; i-- {
			if custom.Enabled[i].Name == b.Name {
				b = custom.Enabled[i]
				replaced[i] = true
				break
			}
		}
		out.Enabled = append(out.Enabled, b)
	}
	for i, e := range custom.Enabled {
		if !replaced[i] {
			out.Enabled = append(out.Enabled, e)
		}
	}
	return out
}

func setArgDefaults(args any) {
	switch a := args.(type) {
	case *DefaultPreemptionArgs:
		setDefault(&a.MinCandidateNodesPercentage, 10)
		setDefault(&a.MinCandidateNodesAbsolute, 100)
	case *InterPodAffinityArgs:
		setDefault(&a.HardPodAffinityWeight, 1)
	case *NodeResourcesFitArgs:
		if a.ScoringStrategy == nil {
			a.ScoringStrategy = &ScoringStrategy{Type: LeastAllocated}
		}
		a.ScoringStrategy.Resources = defaultResources(a.ScoringStrategy.Resources)
	case *NodeResourcesBalancedAllocationArgs:
		a.Resources = defaultResources(a.Resources)
	case *VolumeBindingArgs:
		setDefault(&a.BindTimeoutSeconds, 600)
	case *PodTopologySpreadArgs:
		a.DefaultingType = orString(a.DefaultingType, SystemDefaulting)
	}
}

func defaultResources(in []ResourceSpec) []ResourceSpec {
	if len(in) == 0 {
		return []ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "memory", Weight: 1}}
	}
	for i := range in {
		if in[i].Weight == 0 {
			in[i].Weight = 1
		}
	}
	return in
}

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func orString(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
