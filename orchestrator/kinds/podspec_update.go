package kinds

import (
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// fixedFields tells which fields of a pod may change.
const fixedFields = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
	"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"

// validatePodUpdate lets few fields of a pod change, and some more while it is gated.
func validatePodUpdate(o, old *corev1.Pod) field.ErrorList {
	p, at := podMetadataAndSpec(o), field.NewPath("spec")
	p.annotationUpdates(field.NewPath("metadata", "annotations"), o.Annotations, old.Annotations)
	if !p.sameContainers(at.Child("containers"), o.Spec.Containers, old.Spec.Containers) ||
		!p.sameContainers(at.Child("initContainers"), o.Spec.InitContainers, old.Spec.InitContainers) ||
		!p.deadlineChange(at.Child("activeDeadlineSeconds"), o.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds) {
		return p.list
	}
	p.addedTolerations(at.Child("tolerations"), o.Spec.Tolerations, old.Spec.Tolerations)
	p.removedGates(at.Child("schedulingGates"), o.Spec.SchedulingGates, old.Spec.SchedulingGates)
	if equality.Semantic.DeepEqual(o.Spec, old.Spec) {
		return p.list
	}
	rest := o.Spec.DeepCopy() // what has changed beside what may
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds, rest.SchedulingGates, rest.Tolerations = old.Spec.ActiveDeadlineSeconds, old.Spec.SchedulingGates, old.Spec.Tolerations
	if was, is := old.Spec.TerminationGracePeriodSeconds, rest.TerminationGracePeriodSeconds; was != nil && is != nil && *was < 0 && *is == 1 {
		rest.TerminationGracePeriodSeconds = was
	}
	if len(old.Spec.SchedulingGates) > 0 {
		p.gatedChanges(at, rest, &old.Spec)
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		p.forbidden(at, fixedFields+diff.Diff(old.Spec, *rest))
	}
	return p.list
}

// sameContainers checks that there are as many containers as before.
func (p *podCheck) sameContainers(at *field.Path, cs, old []corev1.Container) bool {
	if len(cs) != len(old) {
		p.forbidden(at, "pod updates may not add or remove containers")
		return false
	}
	for i := range cs {
		p.have(at.Index(i).Child("image"), cs[i].Image)
		p.imagePadding(&cs[i], at.Index(i))
	}
	return true
}

// deadlineChange lets a deadline be set, and come earlier.
func (p *podCheck) deadlineChange(at *field.Path, d, old *int64) bool {
	switch {
	case d == nil:
		if old != nil {
			p.invalid(at, d, "must not update from a positive integer to nil value")
		}
		return true
	case *d < 0 || *d > math.MaxInt32:
		p.invalid(at, *d, utilvalidation.InclusiveRangeError(0, math.MaxInt32))
	case old != nil && *old < *d:
		p.invalid(at, *d, "must be less than or equal to previous value")
	default:
		return true
	}
	return false
}

// addedTolerations lets tolerations be added, and last for another time.
func (p *podCheck) addedTolerations(at *field.Path, all, old []corev1.Toleration) {
	for _, was := range old {
		kept := slices.ContainsFunc(all, func(t corev1.Toleration) bool {
			t.TolerationSeconds = was.TolerationSeconds
			return t == was
		})
		if !kept {
			p.forbidden(at, "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
	p.tolerations(at, all)
}

// removedGates lets gates be removed.
func (p *podCheck) removedGates(at *field.Path, gates, old []corev1.PodSchedulingGate) {
	for i, g := range gates {
		if !slices.Contains(old, g) {
			p.forbidden(at.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name))
		}
	}
}

// gatedChanges lets a gated pod be bound more narrowly to nodes, and undoes these changes in rest.
func (p *podCheck) gatedChanges(at *field.Path, rest, old *corev1.PodSpec) {
	for k, v := range old.NodeSelector {
		if now, ok := rest.NodeSelector[k]; !ok || now != v {
			p.invalid(at.Child("nodeSelector"), rest.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
			break
		}
	}
	rest.NodeSelector = old.NodeSelector
	was, is := nodeAffinity(old), nodeAffinity(rest)
	if equality.Semantic.DeepEqual(was, is) {
		return
	}
	p.nodeAffinityChange(at.Child("affinity", "nodeAffinity", requiredTerms, "nodeSelectorTerms"), requiredNodeTerms(is), requiredNodeTerms(was))
	switch {
	case rest.Affinity == nil:
		rest.Affinity = &corev1.Affinity{NodeAffinity: was}
	case old.Affinity == nil && rest.Affinity.PodAffinity == nil && rest.Affinity.PodAntiAffinity == nil:
		rest.Affinity = nil
	default:
		rest.Affinity.NodeAffinity = was
	}
}

func nodeAffinity(s *corev1.PodSpec) *corev1.NodeAffinity {
	if s.Affinity == nil {
		return nil
	}
	return s.Affinity.NodeAffinity
}

func requiredNodeTerms(a *corev1.NodeAffinity) []corev1.NodeSelectorTerm {
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

// nodeAffinityChange lets requirements be added to terms, if there are terms.
func (p *podCheck) nodeAffinityChange(at *field.Path, terms, old []corev1.NodeSelectorTerm) {
	if len(old) == 0 {
		return
	}
	if len(terms) != len(old) {
		p.invalid(at, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	for i := range old {
		if !narrower(&terms[i], &old[i]) {
			p.invalid(at.Index(i), terms[i], "only additions are allowed (no mutations or deletions)")
		}
	}
}

// narrower says that a term has requirements added at the end. One without any matches nothing, and has to stay so.
func narrower(t, old *corev1.NodeSelectorTerm) bool {
	labels, fields := len(old.MatchExpressions), len(old.MatchFields)
	if labels+fields == 0 {
		return len(t.MatchExpressions)+len(t.MatchFields) == 0
	}
	return len(t.MatchExpressions) >= labels && len(t.MatchFields) >= fields &&
		equality.Semantic.DeepEqual(t.MatchExpressions[:labels], old.MatchExpressions[:labels]) &&
		equality.Semantic.DeepEqual(t.MatchFields[:fields], old.MatchFields[:fields])
}

// keepAllBut gives a pod everything of the old one except what set takes from the one that was sent.
func keepAllBut(o, old *corev1.Pod, set func(sent *corev1.PodSpec)) {
	sent, kept := o.Spec, old.DeepCopy()
	o.Spec, o.Status = kept.Spec, kept.Status
	metav1.ResetObjectMetaForStatus(&o.ObjectMeta, &kept.ObjectMeta)
	set(&sent)
	dropGated(&o.Spec, o.Annotations)
}

// prepareEphemeralContainers keeps all but the ephemeral containers.
func prepareEphemeralContainers(o, old *corev1.Pod) {
	keepAllBut(o, old, func(sent *corev1.PodSpec) { o.Spec.EphemeralContainers = sent.EphemeralContainers })
}

// ValidateEphemeralContainers returns what is wrong with a change of a pod's ephemeral containers, of which there may only be
// more.
func ValidateEphemeralContainers(o, old *corev1.Pod) field.ErrorList {
	if hasKey(old.Annotations, corev1.MirrorPodAnnotationKey) {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	p, at := podMetadataAndSpec(o), field.NewPath("spec", "ephemeralContainers")
	p.annotationUpdates(field.NewPath("metadata", "annotations"), o.Annotations, old.Annotations)
	now := make(map[string]*corev1.EphemeralContainer, len(o.Spec.EphemeralContainers))
	for i := range o.Spec.EphemeralContainers {
		now[o.Spec.EphemeralContainers[i].Name] = &o.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		if is := now[was.Name]; is == nil {
			p.forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name))
		} else if !equality.Semantic.DeepEqual(was, is) {
			p.forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(*was, *is)))
		}
	}
	return p.list
}
