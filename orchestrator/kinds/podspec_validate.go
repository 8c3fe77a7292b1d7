package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// template checks a template of pods.
func (p *problems) template(at *field.Path, t *corev1.PodTemplateSpec) {
	p.labels(at.Child("labels"), t.Labels)
	c := podCheck{spec: &t.Spec}
	c.podSpec(at.Child("spec"))
	p.add(c.list...)
	if len(t.Spec.EphemeralContainers) > 0 {
		p.forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
}

// podSpec checks what pods and pod templates have in common.
func (p *podCheck) podSpec(at *field.Path) {
	if p.spec.TerminationGracePeriodSeconds == nil {
		p.required(at.Child("terminationGracePeriodSeconds"), "")
	}
	p.containers(at.Child("containers"))
	p.initContainers(at.Child("initContainers"))
	p.ephemeralContainers(at.Child("ephemeralContainers"))
	p.fileEnv(at)
}

// podMetadataAndSpec checks a pod at its creation and at every change.
func podMetadataAndSpec(o *corev1.Pod) *podCheck {
	p := &podCheck{spec: &o.Spec, meta: &o.ObjectMeta}
	at := field.NewPath("spec")
	p.podSpec(at)
	if s := o.Spec.TerminationGracePeriodSeconds; s != nil {
		p.notNegative(at.Child("terminationGracePeriodSeconds"), *s)
	}
	for i := range o.Spec.Containers {
		p.imagePadding(&o.Spec.Containers[i], at.Child("containers").Index(i))
	}
	for i := range o.Spec.InitContainers {
		p.imagePadding(&o.Spec.InitContainers[i], at.Child("initContainers").Index(i))
	}
	return p
}

// validatePod checks a new pod.
func validatePod(o *corev1.Pod) field.ErrorList {
	p, at := podMetadataAndSpec(o), field.NewPath("spec")
	if len(o.Spec.EphemeralContainers) > 0 {
		p.forbidden(at.Child("ephemeralContainers"), "cannot be set on create")
	}
	if o.Spec.NodeName != "" && len(o.Spec.SchedulingGates) > 0 {
		p.forbidden(at.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	return p.list
}
