package kinds

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	tolerationsAnnotation = "scheduler.alpha.kubernetes.io/tolerations"
	oldDockerDefault      = "docker/default"
	localPrefix           = "localhost/"
)

// annotations checks the annotations that mean something to Kubernetes.
func (p *podCheck) annotations(at *field.Path, a map[string]string) {
	if value, mirror := a[corev1.MirrorPodAnnotationKey]; mirror && p.spec.NodeName == "" {
		p.invalid(at.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set")
	}
	if text := a[tolerationsAnnotation]; text != "" {
		var all []corev1.Toleration
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			p.invalid(at, tolerationsAnnotation, err.Error())
		} else {
			p.tolerations(at.Child(tolerationsAnnotation), all)
		}
	}
	if cost, ok := a[corev1.PodDeletionCost]; ok && !isCost(cost) {
		p.invalid(at.Key(corev1.PodDeletionCost), cost, "must be a 32bit integer")
	}
	if value, ok := a[corev1.SeccompPodAnnotationKey]; ok {
		p.seccompAnnotation(at.Child(corev1.SeccompPodAnnotationKey), value)
	}
	keys := slices.Sorted(maps.Keys(a))
	for _, k := range keys {
		if strings.HasPrefix(k, corev1.SeccompContainerAnnotationKeyPrefix) {
			p.seccompAnnotation(at.Child(k), a[k])
		}
	}
	names := containerNames(p.spec)
	for _, k := range keys {
		name, ok := strings.CutPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ok {
			continue
		}
		if !names.Has(name) {
			p.invalid(at.Key(k), name, "container not found")
		}
		switch v := a[k]; {
		case v == "", v == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault, v == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		case !strings.HasPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix):
			p.invalid(at.Key(k), v, "invalid AppArmor profile name: "+strconv.Quote(v))
		}
	}
}

// isCost says that a text is what the deletion of a pod costs. A plus sign and leading zeros are refused.
func isCost(text string) bool {
	if text == "" || text[0] == '+' || text[0] == '0' && text != "0" {
		return false
	}
	_, err := strconv.ParseInt(text, 10, 32)
	return err == nil
}

func (p *podCheck) seccompAnnotation(at *field.Path, value string) {
	switch value {
	case corev1.SeccompProfileRuntimeDefault, oldDockerDefault, corev1.SeccompProfileNameUnconfined:
		return
	}
	if name, ok := strings.CutPrefix(value, corev1.SeccompLocalhostProfileNamePrefix); ok {
		p.descending(at, name)
		return
	}
	p.invalid(at, value, "must be a valid seccomp profile")
}

// profilesMatch checks that annotations for seccomp and AppArmor and the fields that came after them say the same.
func (p *podCheck) profilesMatch(spec *field.Path, m *metav1.ObjectMeta) {
	if s := p.spec.SecurityContext; s != nil {
		p.seccompMatches(spec.Child("securityContext", "seccompProfile"), m, corev1.SeccompPodAnnotationKey, s.SeccompProfile)
	}
	containersAt(p.spec, spec, func(c *corev1.Container, at *field.Path) {
		if s := c.SecurityContext; s != nil {
			p.seccompMatches(at.Child("securityContext", "seccompProfile"), m, corev1.SeccompContainerAnnotationKeyPrefix+c.Name, s.SeccompProfile)
		}
	})
	if p.spec.OS != nil && p.spec.OS.Name == corev1.Windows {
		return
	}
	var ofPod *corev1.AppArmorProfile
	if s := p.spec.SecurityContext; s != nil {
		ofPod = s.AppArmorProfile
	}
	containersAt(p.spec, spec, func(c *corev1.Container, at *field.Path) {
		profile := ofPod
		if s := c.SecurityContext; s != nil && s.AppArmorProfile != nil {
			profile = s.AppArmorProfile
		}
		value, ok := m.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		if !ok || profile == nil {
			return
		}
		p.profileMatches(at.Child("securityContext", "appArmorProfile"), "apparmor", value, string(profile.Type), profile.LocalhostProfile)
	})
}

func (p *podCheck) seccompMatches(at *field.Path, m *metav1.ObjectMeta, key string, profile *corev1.SeccompProfile) {
	value, ok := m.Annotations[key]
	if !ok || profile == nil {
		return
	}
	if value == oldDockerDefault {
		value = corev1.SeccompProfileRuntimeDefault
	}
	p.profileMatches(at, "seccomp", value, string(profile.Type), profile.LocalhostProfile)
}

// profileMatches compares an annotation with a profile. Both systems write them alike.
func (p *podCheck) profileMatches(at *field.Path, system, value, kind string, name *string) {
	local, isLocal := strings.CutPrefix(value, localPrefix)
	same := true
	switch kind {
	case string(corev1.SeccompProfileTypeUnconfined):
		same = value == corev1.SeccompProfileNameUnconfined
	case string(corev1.SeccompProfileTypeRuntimeDefault):
		same = value == corev1.SeccompProfileRuntimeDefault
	case string(corev1.SeccompProfileTypeLocalhost):
		if same = isLocal; isLocal && (name == nil || *name != local) {
			p.forbidden(at.Child("localhostProfile"), system+" profile in annotation and field must match")
		}
	}
	if !same {
		p.forbidden(at.Child("type"), system+" type in annotation and field must match")
	}
}

// annotationUpdates checks annotations that may not change.
func (p *podCheck) annotationUpdates(at *field.Path, a, old map[string]string) {
	fixed := func(k string, verb string) {
		if strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) {
			p.forbidden(at.Key(k), "may not "+verb+" AppArmor annotations")
		}
		if k == corev1.MirrorPodAnnotationKey {
			p.forbidden(at.Key(k), "may not "+verb+" mirror pod annotation")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(old)) {
		if v, ok := a[k]; !ok || v != old[k] {
			fixed(k, "remove or update")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if _, ok := old[k]; !ok {
			fixed(k, "add")
		}
	}
	p.annotations(at, a)
}

// templateAnnotations checks annotations as metadata, which is not checked for templates otherwise.
func (p *problems) templateAnnotations(at *field.Path, a map[string]string) {
	p.add(validation.ValidateAnnotations(a, at)...)
}
