package cgroup

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Bounds that the kernel puts on weights and quotas of CPU.
const (
	Period    = 100000 // µs
	minShares = 2
	maxShares = 262144
	minQuota  = 1000 // µs
)

// Shares is the weight of a request of CPU in thousandths.
func Shares(milli int64) int64 { return min(max(milli*1024/1000, minShares), maxShares) }

// Quota is the time in µs that a limit of CPU in thousandths allows in a Period; 0: no limit.
func Quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*Period/1000, minQuota)
}

// MilliOfShares undoes Shares, as far as it can be undone.
func MilliOfShares(shares int64) int64 {
	if shares <= minShares {
		return 0
	}
	return (shares*1000 + 1023) / 1024
}

// QOS is the class of a pod's quality of service.
func QOS(p *corev1.Pod) corev1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	if helpers.IsPodLevelResourcesSet(p) {
		return qosOf(p.Spec.Resources)
	}
	class := corev1.PodQOSClass("")
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			switch c := qosOf(&list[i].Resources); {
			case class == "":
				class = c
			case class != c:
				class = corev1.PodQOSBurstable
			}
		}
	}
	if class == "" {
		class = corev1.PodQOSBestEffort
	}
	return class
}

func qosOf(r *corev1.ResourceRequirements) corev1.PodQOSClass {
	some, full := false, true
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit := r.Requests[name], r.Limits[name]
		if _, said := r.Requests[name]; !said {
			request = limit
		}
		some = some || !request.IsZero() || !limit.IsZero()
		full = full && !limit.IsZero() && request.Cmp(limit) == 0
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case full:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// Resources translates requests and limits.
func Resources(requests, limits corev1.ResourceList) *runtimeapi.LinuxContainerResources {
	cpu, said := requests[corev1.ResourceCPU]
	if !said {
		cpu = limits[corev1.ResourceCPU]
	}
	r := &runtimeapi.LinuxContainerResources{CpuShares: Shares(cpu.MilliValue()), MemoryLimitInBytes: limits.Memory().Value()}
	if q := Quota(limits.Cpu().MilliValue()); q > 0 {
		r.CpuPeriod, r.CpuQuota = Period, q
	}
	return r
}

// PodResources are what a pod gets as a whole, overhead not included: a limit only where all of its containers have one.
func PodResources(p *corev1.Pod) *runtimeapi.LinuxContainerResources {
	return podResources(p, true)
}

func podResources(p *corev1.Pod, excludeOverhead bool) *runtimeapi.LinuxContainerResources {
	opts := helpers.PodResourcesOptions{ExcludeOverhead: excludeOverhead}
	requests, limits := helpers.PodRequests(p, opts), helpers.PodLimits(p, opts)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if !limited(p, name) {
			delete(limits, name)
		}
	}
	return Resources(requests, limits)
}

// limited is whether a limit holds for the pod as a whole.
func limited(p *corev1.Pod, name corev1.ResourceName) bool {
	if p.Spec.Resources != nil {
		if l, ok := p.Spec.Resources.Limits[name]; ok && !l.IsZero() {
			return true
		}
	}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if l := list[i].Resources.Limits[name]; l.IsZero() {
				return false
			}
		}
	}
	return true
}

// hugepages are limits on huge pages by the kernel's name of their size ("2MB").
func hugepages(limits corev1.ResourceList) map[string]uint64 {
	h := map[string]uint64{}
	for name, q := range limits {
		size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		bytes, err := resource.ParseQuantity(size)
		if err != nil {
			continue
		}
		h[pageSize(bytes.Value())] = uint64(q.Value())
	}
	return h
}

// pageSize is how the kernel calls a size of huge pages.
func pageSize(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB", "TB"}
	i := 0
	for bytes >= 1024 && bytes%1024 == 0 && i < len(units)-1 {
		bytes, i = bytes/1024, i+1
	}
	return resource.NewQuantity(bytes, resource.DecimalSI).String() + units[i]
}

// Scores of processes by which the kernel's killer chooses when memory is out: from -1000, never, to 1000, first.
const (
	guaranteedScore = -997
	bestEffortScore = 1000
	criticalPod     = 2000000000 // priority of pods that the node cannot do without
)

// Score is the score of a container's processes; capacity is the node's memory in bytes.
func Score(p *corev1.Pod, c *corev1.Container, capacity int64) int64 {
	if p.Spec.Priority != nil && *p.Spec.Priority >= criticalPod {
		return guaranteedScore
	}
	switch QOS(p) {
	case corev1.PodQOSGuaranteed:
		return guaranteedScore
	case corev1.PodQOSBestEffort:
		return bestEffortScore
	}
	s := burstableScore(p, c, capacity)
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && isInit(p, c) {
		for i := range p.Spec.Containers { // a sidecar does not go before those whom it serves
			s = min(s, burstableScore(p, &p.Spec.Containers[i], capacity))
		}
	}
	return s
}

func isInit(p *corev1.Pod, c *corev1.Container) bool {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == c.Name {
			return true
		}
	}
	return false
}

func burstableScore(p *corev1.Pod, c *corev1.Container, capacity int64) int64 {
	if capacity <= 0 {
		return bestEffortScore - 1
	}
	request := c.Resources.Requests.Memory().Value()
	if p.Spec.Resources != nil {
		if pod, ok := p.Spec.Resources.Requests[corev1.ResourceMemory]; ok {
			var asked int64
			for i := range p.Spec.Containers {
				asked += p.Spec.Containers[i].Resources.Requests.Memory().Value()
			}
			if rest := pod.Value() - asked; rest > 0 { // what nobody asked for by name belongs to all alike
				request += rest / int64(max(1, len(p.Spec.Containers)))
			}
		}
	}
	s := bestEffortScore - bestEffortScore*request/capacity
	return min(max(s, bestEffortScore+guaranteedScore), bestEffortScore-1)
}
