package framework

import (
	"context"

	v1 "k8s.io/api/core/v1"
)

// ExtenderName is the name under which rejections by extenders are kept.
const ExtenderName = "Extender"

// Extender is a process outside of the scheduler that has a say. Its methods may be called from several goroutines.
type Extender interface {
	Name() string
	// Ignorable extenders may fail without consequence.
	Ignorable() bool
	// Interested tells whether the extender cares for the pod.
	Interested(pod *v1.Pod) bool
	// Verbs tells what the extender can do.
	Verbs() ExtenderVerbs
	// Filter returns the nodes that pass; the reasons of the others, and those that preemption cannot help.
	Filter(ctx context.Context, pod *v1.Pod, nodes []*NodeInfo) (fit []*NodeInfo, failed, unresolvable map[string]string, err error)
	// Prioritize returns scores from 0 to 10 by node, and the extender's weight.
	Prioritize(ctx context.Context, pod *v1.Pod, nodes []*NodeInfo) (scores map[string]int64, weight int64, err error)
	// Preempt may drop candidates and change their victims.
	Preempt(ctx context.Context, pod *v1.Pod, candidates map[string]*Victims, s *Snapshot) (map[string]*Victims, error)
	Bind(ctx context.Context, b *v1.Binding) error
}

// ExtenderVerbs tells what an extender can do.
type ExtenderVerbs struct {
	Filter, Prioritize, Preempt, Bind bool
}
