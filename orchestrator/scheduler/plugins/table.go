package plugins

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// Binder sends a binding to the API server.
type Binder interface {
	Bind(ctx context.Context, b *v1.Binding) error
}

// Deps is what plugins may need besides their arguments.
type Deps struct {
	Binder Binder
	// Volumes may be nil if nothing is bound.
	Volumes Volumes
	// IgnoredResources are extended resources that an extender accounts for.
	IgnoredResources []string
	// Offset is where preemption starts to look for candidates; nil means at the first node.
	Offset func(n int) int
}

// Factory makes a plugin. Args are those of the configuration: of a type of package config for built-in plugins, raw
// JSON for others, or nil.
type Factory func(args any, d Deps) (framework.Plugin, error)

// Table are the built-in plugins by name. Each call makes a new map, to which the caller may add its own.
func Table() map[string]Factory {
	return map[string]Factory{
		config.SchedulingGates:   plain(newSchedulingGates),
		config.PrioritySort:      plain(newPrioritySort),
		config.NodeName:          plain(newNodeName),
		config.NodeUnschedulable: plain(newNodeUnschedulable),
		config.TaintToleration:   plain(newTaintToleration),
		config.NodePorts:         plain(newNodePorts),
		config.ImageLocality:     plain(newImageLocality),
		config.NodeAffinity: with(func(a *config.NodeAffinityArgs, _ Deps) (framework.Plugin, error) {
			return newNodeAffinity(a)
		}),
		config.NodeResourcesFit: with(func(a *config.NodeResourcesFitArgs, d Deps) (framework.Plugin, error) {
			return newNodeResourcesFit(a, d.IgnoredResources), nil
		}),
		config.NodeResourcesBalancedAllocation: with(func(a *config.NodeResourcesBalancedAllocationArgs, _ Deps) (framework.Plugin, error) {
			return newBalancedAllocation(a), nil
		}),
		config.PodTopologySpread: with(func(a *config.PodTopologySpreadArgs, _ Deps) (framework.Plugin, error) {
			return newPodTopologySpread(a), nil
		}),
		config.InterPodAffinity: with(func(a *config.InterPodAffinityArgs, _ Deps) (framework.Plugin, error) {
			return newInterPodAffinity(a), nil
		}),
		config.DefaultPreemption: with(func(a *config.DefaultPreemptionArgs, d Deps) (framework.Plugin, error) {
			return newDefaultPreemption(a, d.Offset), nil
		}),
		config.VolumeRestrictions: plain(newVolumeRestrictions),
		config.NodeVolumeLimits:   plain(newNodeVolumeLimits),
		config.VolumeZone:         plain(newVolumeZone),
		config.VolumeBinding: with(func(a *config.VolumeBindingArgs, d Deps) (framework.Plugin, error) {
			return newVolumeBinding(a, d.Volumes), nil
		}),
		config.DefaultBinder: func(_ any, d Deps) (framework.Plugin, error) { return newDefaultBinder(d.Binder), nil },
	}
}

func plain[P framework.Plugin](f func() P) Factory {
	return func(any, Deps) (framework.Plugin, error) { return f(), nil }
}

func with[A any](f func(a *A, d Deps) (framework.Plugin, error)) Factory {
	return func(args any, d Deps) (framework.Plugin, error) {
		a, ok := args.(*A)
		if !ok {
			return nil, fmt.Errorf("want args to be of type %T, got %T", a, args)
		}
		return f(a, d)
	}
}

// reject makes a status that carries its plugin's name, to be shared by all nodes that it concerns.
func reject(plugin string, c framework.Code, reasons ...string) *framework.Status {
	return framework.NewStatus(c, reasons...).By(plugin)
}

func skip() *framework.Status { return framework.NewStatus(framework.Skip) }
