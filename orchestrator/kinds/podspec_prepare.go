package kinds

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"
)

// prepareTemplate drops what a pod template may not have.
func prepareTemplate(t *corev1.PodTemplateSpec) {
	if t != nil {
		dropGated(&t.Spec, t.Annotations)
	}
}

// legacyInitAnnotations once held init containers.
var legacyInitAnnotations = []string{
	"pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers",
	"pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses",
}

// dropGated drops the fields of features that are off in Kubernetes 1.37 unless somebody turns them on. Nobody can do so
// here, hence no stored object has them.
func dropGated(s *corev1.PodSpec, annotations map[string]string) {
	for _, key := range legacyInitAnnotations {
		delete(annotations, key)
	}
	s.SchedulingGroup = nil
	s.EvictionResponders = nil
	containersOf(s, dropGatedOfContainer)
	for i := range s.Volumes {
		dropGatedOfVolume(&s.Volumes[i].VolumeSource)
	}
}

func dropGatedOfContainer(c *corev1.Container) {
	for i := range c.VolumeMounts {
		c.VolumeMounts[i].BindMountOptions = nil
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil && p.GRPC != nil {
			p.GRPC.Mode = nil
		}
		if p != nil && p.HTTPGet != nil {
			p.HTTPGet.Protocol = nil
		}
	}
	l := c.Lifecycle
	if l == nil {
		return
	}
	for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
		if h != nil && h.HTTPGet != nil {
			h.HTTPGet.Protocol = nil
		}
	}
	if l.StopSignal != nil {
		if l.StopSignal = nil; *l == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	}
}

func dropGatedOfVolume(s *corev1.VolumeSource) {
	paths := func(items []corev1.KeyToPath) {
		for i := range items {
			items[i].User = nil
		}
	}
	files := func(items []corev1.DownwardAPIVolumeFile) {
		for i := range items {
			items[i].User = nil
		}
	}
	switch {
	case s.EmptyDir != nil:
		s.EmptyDir.Mode = nil
	case s.Secret != nil:
		s.Secret.DefaultUser = nil
		paths(s.Secret.Items)
	case s.ConfigMap != nil:
		s.ConfigMap.DefaultUser = nil
		paths(s.ConfigMap.Items)
	case s.DownwardAPI != nil:
		s.DownwardAPI.DefaultUser = nil
		files(s.DownwardAPI.Items)
	case s.Projected != nil:
		s.Projected.DefaultUser = nil
		for i := range s.Projected.Sources {
			switch p := &s.Projected.Sources[i]; {
			case p.Secret != nil:
				paths(p.Secret.Items)
			case p.ConfigMap != nil:
				paths(p.ConfigMap.Items)
			case p.DownwardAPI != nil:
				files(p.DownwardAPI.Items)
			case p.ServiceAccountToken != nil:
				p.ServiceAccountToken.User = nil
			case p.ClusterTrustBundle != nil:
				p.ClusterTrustBundle.User = nil
			case p.PodCertificate != nil:
				p.PodCertificate.User = nil
			}
		}
	}
}

// dropGatedStatus is dropGated for the status of a pod.
func dropGatedStatus(s *corev1.PodStatus) {
	for _, all := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range all {
			for j := range all[i].VolumeMounts {
				all[i].VolumeMounts[j].VolumeStatus = nil
			}
		}
	}
	s.NodeAllocatableResourceClaimStatuses = nil
	s.VolumeHealth = nil
}

// createPod prepares a new pod.
func createPod(o *corev1.Pod) {
	dropGated(&o.Spec, o.Annotations)
	o.Status = corev1.PodStatus{Phase: corev1.PodPending}
	if len(o.Spec.SchedulingGates) > 0 {
		o.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates", LastTransitionTime: o.CreationTimestamp,
		}}
	}
	selectByLabels(o)
	profilesFromAnnotations(o)
	defaultPodResources(&o.Spec)
	o.Status.QOSClass = qosClass(&o.Spec)
}

// selectByLabels puts the values of the pod's own labels into the selectors that name only their keys.
func selectByLabels(o *corev1.Pod) {
	add := func(s *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		for _, key := range keys {
			if value, ok := o.Labels[key]; ok && s != nil {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
			}
		}
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range preferred {
			t := &preferred[i].PodAffinityTerm
			add(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
			add(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
		}
		for i := range required {
			t := &required[i]
			add(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
			add(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
		}
	}
	if a := o.Spec.Affinity; a != nil {
		if p := a.PodAffinity; p != nil {
			terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if p := a.PodAntiAffinity; p != nil {
			terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range o.Spec.TopologySpreadConstraints {
		c := &o.Spec.TopologySpreadConstraints[i]
		add(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

// profilesFromAnnotations sets the AppArmor profiles of containers that have only the old annotation for it.
func profilesFromAnnotations(o *corev1.Pod) {
	if o.Spec.OS != nil && o.Spec.OS.Name == corev1.Windows {
		return
	}
	var ofPod *corev1.AppArmorProfile
	if o.Spec.SecurityContext != nil {
		ofPod = o.Spec.SecurityContext.AppArmorProfile
	}
	containersOf(&o.Spec, func(c *corev1.Container) {
		value, ok := o.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			return
		}
		p := profileFromAnnotation(value)
		if p == nil || !validProfile(p) || equality.Semantic.DeepEqual(p, ofPod) {
			return
		}
		fill(&c.SecurityContext, corev1.SecurityContext{})
		c.SecurityContext.AppArmorProfile = p
	})
}

// profileFromAnnotation reads an annotation for AppArmor; nil: it means nothing.
func profileFromAnnotation(value string) *corev1.AppArmorProfile {
	switch value {
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	name, local := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	if !local || name == "" {
		return nil
	}
	return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
}

// defaultPodResources completes what a pod asks for as a whole from what its containers ask for.
func defaultPodResources(s *corev1.PodSpec) {
	r := s.Resources
	if r == nil || len(r.Requests) == 0 && len(r.Limits) == 0 {
		return
	}
	missing := func(l *corev1.ResourceList, name corev1.ResourceName) bool {
		_, has := (*l)[name]
		if !has && resource.IsSupportedPodLevelResource(name) {
			orMake(l)
			return true
		}
		return false
	}
	containers := &corev1.Pod{Spec: corev1.PodSpec{Containers: s.Containers, InitContainers: s.InitContainers}}
	limits := resource.AggregateContainerLimits(containers, resource.PodResourcesOptions{})
	for name, q := range limits {
		if _, requested := r.Requests[name]; hugePages(name) && !requested && missing(&r.Limits, name) {
			r.Limits[name] = q
		}
	}
	for name, q := range resource.AggregateContainerRequests(containers, resource.PodResourcesOptions{}) {
		if !hugePages(name) && missing(&r.Requests, name) {
			r.Requests[name] = q
		}
	}
	for name, q := range r.Limits {
		if missing(&r.Requests, name) {
			r.Requests[name] = q.DeepCopy()
		}
	}
	for name, requested := range r.Requests {
		q, limited := limits[name]
		if !limited || !allLimited(s, name) || !missing(&r.Limits, name) {
			continue
		}
		if requested.Cmp(q) > 0 { // or the pod would ask for more than its limit
			q = requested
		}
		r.Limits[name] = q.DeepCopy()
	}
}

func orMake(l *corev1.ResourceList) {
	if *l == nil {
		*l = corev1.ResourceList{}
	}
}

// allLimited says that every container limits a resource.
func allLimited(s *corev1.PodSpec, name corev1.ResourceName) bool {
	all := true
	containersOf(s, func(c *corev1.Container) {
		_, limited := c.Resources.Limits[name]
		all = all && limited
	})
	return all
}

// qosClass is the class of a pod's quality of service.
func qosClass(s *corev1.PodSpec) corev1.PodQOSClass {
	if resource.IsPodLevelResourcesSet(&corev1.Pod{Spec: *s}) {
		return qosOf(s.Resources)
	}
	class := corev1.PodQOSClass("")
	for _, cs := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range cs {
			class = bothQOS(class, qosOf(&cs[i].Resources))
		}
	}
	fillZero(&class, corev1.PodQOSBestEffort)
	return class
}

// bothQOS is the class of two parts; what has two classes is burstable.
func bothQOS(a, b corev1.PodQOSClass) corev1.PodQOSClass {
	if a == "" || a == b {
		return b
	}
	return corev1.PodQOSBurstable
}

func qosOf(r *corev1.ResourceRequirements) corev1.PodQOSClass {
	class := corev1.PodQOSClass("")
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit := r.Requests[name], r.Limits[name]
		switch {
		case !request.Equal(limit):
			return corev1.PodQOSBurstable
		case request.IsZero():
			class = bothQOS(class, corev1.PodQOSBestEffort)
		default:
			class = bothQOS(class, corev1.PodQOSGuaranteed)
		}
	}
	return class
}
