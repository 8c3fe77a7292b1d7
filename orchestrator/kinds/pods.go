package kinds

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

func core(kind string) schema.GroupVersionKind { return corev1.SchemeGroupVersion.WithKind(kind) }

// podKinds are pods and what makes them in the core group.
func podKinds() []*Kind { return []*Kind{podKind(), podTemplateKind(), replicationControllerKind()} }

var (
	changeVerbs = []string{"get", "patch", "update"}
	streamVerbs = []string{"create", "get"}
)

func podKind() *Kind {
	return with(Kind{
		GroupVersionKind: core("Pod"), Resource: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"}, Namespaced: true, Place: "pods",
		New: func() Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Subresources: []Subresource{
			{Name: "attach", Kind: core("PodAttachOptions"), Verbs: streamVerbs},
			{Name: "binding", Kind: core("Binding"), Verbs: []string{"create"}},
			partOf(Subresource{Name: "ephemeralcontainers", Kind: core("Pod"), Verbs: changeVerbs}, prepareEphemeralContainers, ValidateEphemeralContainers),
			{Name: "eviction", Kind: policyv1.SchemeGroupVersion.WithKind("Eviction"), Verbs: []string{"create"}},
			{Name: "exec", Kind: core("PodExecOptions"), Verbs: streamVerbs},
			{Name: "log", Kind: core("Pod"), Verbs: []string{"get"}},
			{Name: "portforward", Kind: core("PodPortForwardOptions"), Verbs: streamVerbs},
			{Name: "proxy", Kind: core("PodProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
			partOf(Subresource{Name: "resize", Kind: core("Pod"), Verbs: changeVerbs}, prepareResize, ValidateResize),
		},
		FieldNames: []string{
			"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
			"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName",
		},
		Columns: podColumns(),
	}, Rules[*corev1.Pod]{
		Default: defaultPod, Create: createPod, Update: updatePod, UpdateStatus: updatePodStatus,
		Validate: validatePod, Ratchets: true, ValidateUpdate: validatePodUpdate, ValidateStatus: validatePodStatus,
		Spec: func(o *corev1.Pod) any { return &o.Spec }, Status: func(o *corev1.Pod) any { return &o.Status },
		Fields: podFields, Row: podRow, Grace: podGrace,
	})
}

// updatePod keeps what a pod asks for as a whole if a client that does not know of it drops it.
func updatePod(o, old *corev1.Pod) {
	if o.Spec.Resources == nil {
		o.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
	dropGated(&o.Spec, o.Annotations)
}

// updatePodStatus keeps what a node may not change, and what it may not know of.
func updatePodStatus(o, old *corev1.Pod) {
	kept := old.DeepCopy()
	o.DeletionTimestamp, o.OwnerReferences = kept.DeletionTimestamp, kept.OwnerReferences
	s, before := &o.Status, &kept.Status
	fillZero(&s.QOSClass, before.QOSClass)
	if s.ResourceClaimStatuses == nil {
		s.ResourceClaimStatuses = before.ResourceClaimStatuses
	}
	if s.ExtendedResourceClaimStatus == nil {
		s.ExtendedResourceClaimStatus = before.ExtendedResourceClaimStatus
	}
	fillZero(&s.ObservedGeneration, before.ObservedGeneration)
	observed := map[corev1.PodConditionType][]int64{} // a type may be there more than once
	for _, c := range before.Conditions {
		observed[c.Type] = append(observed[c.Type], c.ObservedGeneration)
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if seen := observed[c.Type]; len(seen) > 0 {
			observed[c.Type] = seen[1:]
			fillZero(&c.ObservedGeneration, seen[0])
		}
	}
	dropGatedStatus(s)
}

func podFields(o *corev1.Pod) map[string]string {
	ip := ""
	if len(o.Status.PodIPs) > 0 {
		ip = o.Status.PodIPs[0].IP
	}
	return map[string]string{
		"spec.nodeName":            o.Spec.NodeName,
		"spec.restartPolicy":       string(o.Spec.RestartPolicy),
		"spec.schedulerName":       o.Spec.SchedulerName,
		"spec.serviceAccountName":  o.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(o.Spec.HostNetwork),
		"status.phase":             string(o.Status.Phase),
		"status.podIP":             ip,
		"status.podIPs":            ip,
		"status.nominatedNodeName": o.Status.NominatedNodeName,
	}
}

// podGrace is how long a pod has to end. Nobody has to end one that does not run.
func podGrace(o *corev1.Pod, asked *int64) *int64 {
	seconds := ptr.Deref(o.Spec.TerminationGracePeriodSeconds, 0)
	if asked != nil {
		seconds = *asked
	}
	switch {
	case o.Spec.NodeName == "" || o.Status.Phase == corev1.PodFailed || o.Status.Phase == corev1.PodSucceeded:
		seconds = 0
	case seconds < 0:
		seconds = 1
	}
	return &seconds
}
