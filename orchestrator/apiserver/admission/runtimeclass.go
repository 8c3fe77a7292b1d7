package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// RuntimeClass gives new pods what their runtime class says: overhead, node selector and tolerations. A pod of a class that
// there is not is refused, and one with another overhead than its class has.
type RuntimeClass struct {
	Lookup Lookup
}

var runtimeClasses = schema.GroupResource{Group: nodev1.GroupName, Resource: "runtimeclasses"}

// Mutate completes a new pod.
func (p *RuntimeClass) Mutate(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	class, err := p.classOf(ctx, a, pod)
	if err != nil || class == nil {
		return err
	}
	if o := class.Overhead; o != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(o.PodFixed, pod.Spec.Overhead) {
			return p.reject(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = o.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if own, ok := pod.Spec.NodeSelector[key]; ok && own != value {
			return p.reject(a, "conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own)
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	for _, t := range class.Scheduling.Tolerations {
		pod.Spec.Tolerations = withToleration(pod.Spec.Tolerations, *t.DeepCopy())
	}
	return nil
}

// Validate refuses overhead that does not come from the pod's class.
func (p *RuntimeClass) Validate(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	class, err := p.classOf(ctx, a, pod)
	switch {
	case err != nil:
		return err
	case class != nil && class.Overhead != nil:
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return p.reject(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
	case pod.Spec.Overhead != nil:
		return p.reject(a, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	}
	return nil
}

func (p *RuntimeClass) reject(a *Attributes, format string, args ...any) error {
	return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf(format, args...))
}

// classOf is a pod's class, nil if it names none.
func (p *RuntimeClass) classOf(ctx context.Context, a *Attributes, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	if pod.Spec.RuntimeClassName == nil {
		return nil, nil
	}
	name := *pod.Spec.RuntimeClassName
	o, err := p.Lookup.Get(ctx, runtimeClasses, "", name, false)
	if apierrors.IsNotFound(err) {
		o, err = p.Lookup.Get(ctx, runtimeClasses, "", name, true)
	}
	if apierrors.IsNotFound(err) {
		return nil, p.reject(a, "pod rejected: RuntimeClass %q not found", name)
	}
	if err != nil {
		return nil, err
	}
	class, ok := objectOf[*nodev1.RuntimeClass](o)
	if !ok {
		return nil, fmt.Errorf("%s is no runtime class", name)
	}
	return class, nil
}

// withToleration adds a toleration. Of two of which one covers the other, only the wider is kept.
func withToleration(all []corev1.Toleration, t corev1.Toleration) []corev1.Toleration {
	var out []corev1.Toleration
	for _, x := range all {
		if covers(&x, &t) {
			return all
		}
		if !covers(&t, &x) {
			out = append(out, x)
		}
	}
	return append(out, t)
}

// covers tells whether a toleration tolerates all that another does, for as long.
func covers(wide, t *corev1.Toleration) bool {
	if wide.Key != "" && wide.Key != t.Key || wide.Effect != "" && wide.Effect != t.Effect {
		return false
	}
	if s := wide.TolerationSeconds; s != nil && (t.TolerationSeconds == nil || *t.TolerationSeconds > *s) {
		return false
	}
	if wide.Operator == corev1.TolerationOpExists {
		return true
	}
	equal := func(o corev1.TolerationOperator) bool { return o == "" || o == corev1.TolerationOpEqual }
	return (wide.Operator == t.Operator || equal(wide.Operator) && equal(t.Operator)) && wide.Value == t.Value
}
