package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// prepareResize keeps all but what a pod and its containers ask for. If there are other containers than before, the change is
// left for ValidateResize to refuse.
func prepareResize(o, old *corev1.Pod) {
	if len(o.Spec.Containers) == len(old.Spec.Containers) && len(o.Spec.InitContainers) == len(old.Spec.InitContainers) {
		keepAllBut(o, old, func(sent *corev1.PodSpec) {
			o.Spec.Resources = sent.Resources
			o.Spec.Containers = resized(o.Spec.Containers, sent.Containers)
			o.Spec.InitContainers = resized(o.Spec.InitContainers, sent.InitContainers)
		})
	} else {
		dropGated(&o.Spec, o.Annotations)
	}
	if o.Spec.Resources == nil {
		o.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
	defaultPodResources(&o.Spec)
}

// resized gives containers the resources of those that were sent, which are returned if they have other names.
func resized(kept, sent []corev1.Container) []corev1.Container {
	for i := range sent {
		if kept[i].Name != sent[i].Name {
			return sent
		}
	}
	for i := range sent {
		kept[i].Resources, kept[i].ResizePolicy = sent[i].Resources, sent[i].ResizePolicy
	}
	return kept
}

// ValidateResize returns what is wrong with a change of what a pod and its containers ask for: only CPU and memory may change,
// and neither may be added to the class of quality of service nor taken from it.
func ValidateResize(o, old *corev1.Pod) field.ErrorList {
	switch {
	case hasKey(old.Annotations, corev1.MirrorPodAnnotationKey):
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	case old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows:
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	p, at := podMetadataAndSpec(o), field.NewPath("spec")
	was := old.Status.QOSClass
	if was == "" {
		was = qosClass(&old.Spec)
	}
	if was != qosClass(&o.Spec) {
		p.invalid(at, o.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	if !nodeResizes(old) {
		p.forbidden(at, "Pod running on node without support for resize")
	}
	rest := o.Spec.DeepCopy() // what has changed beside what may
	p.podResize(at, o.Spec.Resources, old.Spec.Resources, rest)
	sameContainers := p.sameOrder(at, "containers", o.Spec.Containers, old.Spec.Containers)
	if !p.sameOrder(at, "initContainers", o.Spec.InitContainers, old.Spec.InitContainers) || !sameContainers {
		return p.list
	}
	p.notRemoved(at.Child("initContainers"), o.Spec.InitContainers, old.Spec.InitContainers)
	p.notRemoved(at.Child("containers"), o.Spec.Containers, old.Spec.Containers)
	p.containerResizes(at, rest, &old.Spec)
	if !equality.Semantic.DeepEqual(o.Spec.Volumes, old.Spec.Volumes) {
		p.forbidden(at.Child("volumes"), "volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled")
	}
	if len(p.list) == 0 && !equality.Semantic.DeepEqual(*rest, old.Spec) {
		p.forbidden(at, "only cpu and memory resources are mutable")
	}
	return p.list
}

// nodeResizes says whether a pod's node tells what containers got. It cannot be known if none runs.
func nodeResizes(o *corev1.Pod) bool {
	for i := range o.Status.ContainerStatuses {
		if s := &o.Status.ContainerStatuses[i]; s.State.Running != nil {
			return s.Resources != nil
		}
	}
	return true
}

// podResize checks what a pod asks for as a whole, and undoes the changes that are allowed in rest.
func (p *podCheck) podResize(spec *field.Path, r, old *corev1.ResourceRequirements, rest *corev1.PodSpec) {
	some := func(r *corev1.ResourceRequirements) bool { return r != nil && len(r.Requests)+len(r.Limits) > 0 }
	if !some(r) && !some(old) {
		return
	}
	at := spec.Child("resources")
	if old != nil {
		if r == nil {
			p.forbidden(at, "pod-level resources cannot be removed")
			return
		}
		if removed(r.Requests, old.Requests) {
			p.forbidden(at.Child("requests"), "pod-level resource requests cannot be removed")
		}
		if removed(r.Limits, old.Limits) {
			p.forbidden(at.Child("limits"), "pod-level resource limits cannot be removed")
		}
	}
	before := old
	if before == nil {
		before = &corev1.ResourceRequirements{}
	}
	rest.Resources.Requests = withOldCompute(rest.Resources.Requests, before.Requests)
	rest.Resources.Limits = withOldCompute(rest.Resources.Limits, before.Limits)
	if m := rest.Resources; old == nil && len(m.Requests)+len(m.Limits)+len(m.Claims) == 0 {
		rest.Resources = nil
	}
	if !equality.Semantic.DeepEqual(rest.Resources, old) {
		p.forbidden(spec, "only cpu and memory resources are mutable at pod-level")
	}
}

// removed says that something is no longer asked for.
func removed(l, old corev1.ResourceList) bool {
	for name := range old {
		if _, ok := l[name]; !ok {
			return true
		}
	}
	return false
}

// withOldCompute is a list with CPU and memory as they were.
func withOldCompute(l, old corev1.ResourceList) corev1.ResourceList {
	if l == nil && old == nil {
		return nil
	}
	out := corev1.ResourceList{}
	for name, q := range l {
		out[name] = q
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		delete(out, name)
		if q, ok := old[name]; ok {
			out[name] = q
		}
	}
	return out
}

func (p *podCheck) sameOrder(spec *field.Path, name string, cs, old []corev1.Container) bool {
	at := spec.Child(name)
	if len(cs) != len(old) {
		p.forbidden(at, name+" may not be added or removed on resize")
		return false
	}
	same := true
	for i := range old {
		if cs[i].Name != old[i].Name {
			p.forbidden(at.Index(i).Child("name"), name+" may not be renamed or reordered on resize")
			same = false
		}
	}
	return same
}

func (p *podCheck) notRemoved(at *field.Path, cs, old []corev1.Container) {
	for i := range old {
		at, is, was := at.Index(i).Child("resources"), &cs[i].Resources, &old[i].Resources
		if removed(is.Requests, was.Requests) {
			p.forbidden(at.Child("requests"), "resource requests cannot be removed")
		}
		if removed(is.Limits, was.Limits) {
			p.forbidden(at.Child("limits"), "resource limits cannot be removed")
		}
	}
}

// containerResizes checks what containers ask for, and undoes the changes that are allowed in rest.
func (p *podCheck) containerResizes(at *field.Path, rest, old *corev1.PodSpec) {
	undo := func(c, was *corev1.Container) (same bool) {
		c.Resources = corev1.ResourceRequirements{
			Limits:   withOldCompute(c.Resources.Limits, was.Resources.Limits),
			Requests: withOldCompute(c.Resources.Requests, was.Resources.Requests),
			Claims:   c.Resources.Claims,
		}
		return equality.Semantic.DeepEqual(c, was)
	}
	for i := range rest.Containers {
		if !undo(&rest.Containers[i], &old.Containers[i]) {
			p.forbidden(at, "only cpu and memory resources are mutable")
		}
	}
	for i := range rest.InitContainers {
		c, was, at := &rest.InitContainers[i], &old.InitContainers[i], at.Child("initContainers").Index(i)
		changed := !equality.Semantic.DeepEqual(c, was)
		if !undo(c, was) {
			p.forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable")
		}
		for _, r := range c.ResizePolicy {
			if changed && !isSidecar(c) && r.RestartPolicy == corev1.RestartContainer {
				p.forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized")
			}
		}
	}
}
