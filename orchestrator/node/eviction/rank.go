package eviction

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	helpers "k8s.io/component-helpers/resource"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// criticalPriority is the least of those that a node is not to do without.
const criticalPriority = 2_000_000_000

// annotations that tell static pods, and their mirrors, from those of the API server.
const (
	annotationSource = "kubernetes.io/config.source"
	annotationMirror = "kubernetes.io/config.mirror"
)

// Critical is whether a pod is never evicted, and taken even under pressure.
func Critical(p *corev1.Pod) bool {
	if source, ok := p.Annotations[annotationSource]; ok && source != "api" {
		return true
	}
	if _, ok := p.Annotations[annotationMirror]; ok {
		return true
	}
	return priority(p) >= criticalPriority
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// claim is what a pod uses and requests of a resource.
type claim struct {
	pod           *corev1.Pod
	used, request int64
}

func (c claim) above() int64 { return c.used - c.request }

// rank sorts pods that may be evicted for a threshold, the first to go first.
func rank(m Met, pods []*corev1.Pod, usage map[types.UID]*stats.PodStats) []claim {
	about, _ := m.Signal.trait()
	var all []claim
	for _, p := range pods {
		if Critical(p) {
			continue
		}
		request := helpers.PodRequests(p, helpers.PodResourcesOptions{})[about.resource]
		all = append(all, claim{p, used(about.resource, p, usage[p.UID]), request.Value()})
	}
	slices.SortStableFunc(all, func(a, b claim) int {
		exceeds := func(c claim) int {
			if about.resource == resourcePids || c.above() <= 0 { // nobody requests processes
				return 0
			}
			return -1
		}
		return cmp.Or(cmp.Compare(exceeds(a), exceeds(b)), cmp.Compare(priority(a.pod), priority(b.pod)), cmp.Compare(b.above(), a.above()))
	})
	return all
}

// used is how much of a resource a pod uses; what is not measured is nothing.
func used(r corev1.ResourceName, p *corev1.Pod, s *stats.PodStats) int64 {
	if s == nil {
		return 0
	}
	switch r {
	case corev1.ResourceMemory:
		return memoryOf(s.Memory)
	case resourcePids:
		if s.ProcessStats != nil {
			return count(s.ProcessStats.ProcessCount)
		}
	case corev1.ResourceEphemeralStorage, resourceInodes:
		return onDisk(r, p, s)
	}
	return 0
}

// onDisk is what a pod has on the node's disk: writable layers, logs, and those volumes that are neither in memory nor elsewhere.
func onDisk(r corev1.ResourceName, p *corev1.Pod, s *stats.PodStats) (n int64) {
	local := map[string]bool{}
	for _, v := range p.Spec.Volumes {
		local[v.Name] = v.ConfigMap != nil || v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
	}
	for i := range s.Containers {
		n += diskOf(r, &s.Containers[i])
	}
	for i := range s.VolumeStats {
		if v := &s.VolumeStats[i]; local[v.Name] {
			n += amountOf(r, &v.FsStats)
		}
	}
	return n
}

// usedBy is how much of a resource a container uses.
func usedBy(r corev1.ResourceName, c *stats.ContainerStats) int64 {
	if r == corev1.ResourceMemory {
		return memoryOf(c.Memory)
	}
	return diskOf(r, c)
}

func memoryOf(m *stats.MemoryStats) int64 {
	if m == nil {
		return 0
	}
	return count(m.WorkingSetBytes)
}

func diskOf(r corev1.ResourceName, c *stats.ContainerStats) int64 {
	return amountOf(r, c.Rootfs) + amountOf(r, c.Logs)
}

func amountOf(r corev1.ResourceName, f *stats.FsStats) int64 {
	switch {
	case f == nil:
		return 0
	case r == resourceInodes:
		return count(f.InodesUsed)
	}
	return count(f.UsedBytes)
}

func count(n *uint64) int64 {
	if n == nil {
		return 0
	}
	return int64(*n)
}
