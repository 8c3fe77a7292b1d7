package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// template checks a template of pods.
func (p *problems) template(at *field.Path, t *corev1.PodTemplateSpec) {
	c := podCheck{spec: &t.Spec}
	c.labels(at.Child("labels"), t.Labels)
	c.templateAnnotations(at.Child("annotations"), t.Annotations)
	c.annotations(at.Child("annotations"), t.Annotations)
	c.podSpec(at.Child("spec"))
	c.profilesMatch(at.Child("spec"), &t.ObjectMeta)
	if len(t.Spec.EphemeralContainers) > 0 {
		c.forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
	p.add(c.list...)
}

// podMetadataAndSpec checks a pod at its creation and at every change.
func podMetadataAndSpec(o *corev1.Pod) *podCheck {
	p, at := &podCheck{spec: &o.Spec, meta: &o.ObjectMeta}, field.NewPath("spec")
	p.annotations(field.NewPath("metadata", "annotations"), o.Annotations)
	p.podSpec(at)
	if o.Spec.ServiceAccountName == "" {
		for i, v := range o.Spec.Volumes {
			if v.Projected == nil {
				continue
			}
			for j, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil {
					p.forbidden(at.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
						"must not be specified when serviceAccountName is not set")
				}
			}
		}
	}
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
	p.profilesMatch(at, &o.ObjectMeta)
	return p.list
}
