package usage

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	quota "k8s.io/apiserver/pkg/quota/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

var (
	pods     = schema.GroupResource{Resource: "pods"}
	podNames = []corev1.ResourceName{
		CountName(pods), corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	}
	// stated are limits that every container has to say something about. Later ones do without.
	stated = []corev1.ResourceName{
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
	}
)

const requests = corev1.DefaultResourceRequestsPrefix

func knowsPod(name corev1.ResourceName) bool {
	s := string(name)
	return slices.Contains(podNames, name) || strings.HasPrefix(s, corev1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(s, corev1.ResourceRequestsHugePagesPrefix) || isExtended(s)
}

// isExtended tells names such as "requests.example.com/gpu".
func isExtended(name string) bool {
	return strings.HasPrefix(name, requests) && (!native(name) || strings.HasPrefix(name, requests+resourcev1.ResourceDeviceClassPrefix))
}

// native resources are Kubernetes' own.
func native(name string) bool {
	return !strings.Contains(name, "/") || strings.Contains(name, corev1.ResourceDefaultNamespacePrefix)
}

func ofPod(o runtime.Object, now time.Time) corev1.ResourceList {
	pod, ok := o.(*corev1.Pod)
	out := corev1.ResourceList{CountName(pods): number(1)}
	if !ok || !alive(pod, now) {
		return out
	}
	opts := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	return quota.Add(out, taken(resourcehelper.PodRequests(pod, opts), resourcehelper.PodLimits(pod, opts)))
}

// alive is a pod that still takes something: not one that has ended, nor one that ought to be gone.
func alive(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return false
	}
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return true
	}
	return !now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second))
}

// taken gives requests and limits the names that quotas have for them.
func taken(request, limit corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{corev1.ResourcePods: number(1)}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := request[name]; ok {
			out[name], out[requests+name] = q, q
		}
		if q, ok := limit[name]; ok {
			out["limits."+name] = q
		}
	}
	for name, q := range request {
		switch s := string(name); {
		case strings.HasPrefix(s, corev1.ResourceHugePagesPrefix):
			out[name], out[requests+name] = q, q
		case strings.HasPrefix(s, resourcev1.ResourceDeviceClassPrefix),
			!native(s) && !strings.HasPrefix(s, requests) && len(validation.IsQualifiedName(requests+s)) == 0:
			out[requests+name] = q
		}
	}
	return out
}

func podRequires(names []corev1.ResourceName, o runtime.Object) error {
	pod, ok := o.(*corev1.Pod)
	if !ok || resourcehelper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	missing := map[string][]string{} // containers by name
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		has := taken(c.Resources.Requests, c.Resources.Limits)
		for _, name := range quota.Intersection(names, stated) {
			if _, ok := has[name]; !ok && !slices.Contains(missing[string(name)], c.Name) {
				missing[string(name)] = append(missing[string(name)], c.Name)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[name])
		parts = append(parts, name+" for: "+strings.Join(missing[name], ","))
	}
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

func podInScope(s scope, o runtime.Object) (bool, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return false, fmt.Errorf("expected a pod, got %T", o)
	}
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return Terminating(pod), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !Terminating(pod), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod), nil
	case corev1.ResourceQuotaScopePriorityClass:
		var classes []string
		if pod.Spec.PriorityClassName != "" {
			classes = []string{pod.Spec.PriorityClassName}
		}
		return selects(s, classes)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod), nil
	}
	return false, nil
}

// Terminating is a pod whose time is limited.
func Terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

// bestEffort is a pod that asks for neither CPU nor memory.
func bestEffort(pod *corev1.Pod) bool {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass == corev1.PodQOSBestEffort
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return !asks(pod.Spec.Resources.Requests) && !asks(pod.Spec.Resources.Limits)
	}
	return !slices.ContainsFunc(slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers), func(c corev1.Container) bool {
		return asks(c.Resources.Requests) || asks(c.Resources.Limits)
	})
}

func asks(l corev1.ResourceList) bool { return l.Cpu().Sign() > 0 || l.Memory().Sign() > 0 }

func crossesNamespaces(pod *corev1.Pod) bool {
	a := pod.Spec.Affinity
	if a == nil {
		return false
	}
	term := func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	weighted := func(t corev1.WeightedPodAffinityTerm) bool { return term(t.PodAffinityTerm) }
	if p := a.PodAffinity; p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, term) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, weighted)) {
		return true
	}
	p := a.PodAntiAffinity
	return p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, term) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, weighted))
}
