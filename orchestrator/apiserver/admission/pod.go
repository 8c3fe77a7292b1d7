package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

// newPod returns the pod that a request creates.
func newPod(a *Attributes) (*corev1.Pod, bool) {
	if a.Operation != Create || !a.isResource("", "pods", "") {
		return nil, false
	}
	return objectOf[*corev1.Pod](a.Object)
}

// DefaultTolerationSeconds makes new pods tolerate a node that is not ready, or cannot be reached, for a while.
type DefaultTolerationSeconds struct {
	Seconds int64 // 300 in Kubernetes
}

// Mutate adds the tolerations that a pod does not have.
func (p *DefaultTolerationSeconds) Mutate(_ context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		has := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		})
		if !has {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(p.Seconds),
			})
		}
	}
	return nil
}

// Priority gives pods the number that belongs to their priority class, and keeps default classes single.
type Priority struct {
	Lookup Lookup
}

var priorityClasses = schema.GroupResource{Group: schedulingv1.GroupName, Resource: "priorityclasses"}

// Mutate resolves a new pod's class.
func (p *Priority) Mutate(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	class, err := p.classOf(ctx, pod)
	if err != nil {
		return err
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		pod.Spec.PriorityClassName = class.Name
		value, policy = class.Value, ptr.Deref(class.PreemptionPolicy, policy)
	}
	forbidden := func(format string, args ...any) error {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf(format, args...))
	}
	if have := pod.Spec.Priority; have != nil && *have != value {
		return forbidden("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *have, value)
	}
	if have := pod.Spec.PreemptionPolicy; have != nil && *have != policy {
		return forbidden("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *have, policy)
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// classOf is the class that a pod names, or the default one, nil if there is none.
func (p *Priority) classOf(ctx context.Context, pod *corev1.Pod) (*schedulingv1.PriorityClass, error) {
	name := pod.Spec.PriorityClassName
	if name == "" {
		return p.defaultClass(ctx)
	}
	o, err := p.Lookup.Get(ctx, priorityClasses, "", name, false)
	if apierrors.IsNotFound(err) {
		o, err = p.Lookup.Get(ctx, priorityClasses, "", name, true)
	}
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, pod.Name, fmt.Errorf("no PriorityClass with name %s was found", name))
	}
	if err != nil {
		return nil, err
	}
	class, _ := objectOf[*schedulingv1.PriorityClass](o)
	return class, nil
}

// defaultClass is the global default class; of several the one of the lowest value.
func (p *Priority) defaultClass(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	all, err := p.Lookup.List(ctx, priorityClasses, "")
	if err != nil {
		return nil, err
	}
	var lowest *schedulingv1.PriorityClass
	for _, o := range all {
		if c, ok := objectOf[*schedulingv1.PriorityClass](o); ok && c.GlobalDefault && (lowest == nil || c.Value < lowest.Value) {
			lowest = c
		}
	}
	return lowest, nil
}

// Validate refuses a second default class.
func (p *Priority) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation == Delete || !a.isResource(schedulingv1.GroupName, "priorityclasses", "") {
		return nil
	}
	class, ok := objectOf[*schedulingv1.PriorityClass](a.Object)
	if !ok || !class.GlobalDefault {
		return nil
	}
	have, err := p.defaultClass(ctx)
	if err != nil {
		return err
	}
	if have != nil && have.Name != class.Name {
		return apierrors.NewForbidden(a.Kind.GroupResource(), class.Name,
			fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", have.Name))
	}
	return nil
}

// TaintNewNodes taints new nodes as not ready, until somebody has looked at them.
type TaintNewNodes struct{}

// Mutate adds the taint.
func (TaintNewNodes) Mutate(_ context.Context, a *Attributes) error {
	if a.Operation != Create || !a.isResource("", "nodes", "") {
		return nil
	}
	n, ok := objectOf[*corev1.Node](a.Object)
	if !ok || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule
	}) {
		return nil
	}
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	return nil
}
