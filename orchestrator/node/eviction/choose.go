package eviction

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	helpers "k8s.io/component-helpers/resource"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Reason is that of pods that were evicted.
const Reason = "Evicted"

// Eviction is the end of a pod.
type Eviction struct {
	Pod     *corev1.Pod
	Message string
	Grace   time.Duration
	// Signal is what there was too little of: that of a threshold, or which limit the pod did not keep.
	Signal Signal
	// Annotations are those of the event.
	Annotations map[string]string
}

// Signals of limits that a pod did not keep, as metrics name them.
const (
	emptyDirLimit  Signal = "emptydirfs.limit"
	podLimit       Signal = "ephemeralpodfs.limit"
	containerLimit Signal = "ephemeralcontainerfs.limit"
)

// Annotations of events of evictions.
const (
	annotationOffenders = "offending_containers"
	annotationUsage     = "offending_containers_usage"
	annotationStarved   = "starved_resource"
)

// immediate is the grace period of what cannot wait.
const immediate = time.Second

// Choose is the pod that has to go for a threshold, nil if there is none that may. maxGrace bounds the grace period for soft
// thresholds; 0 is none.
func Choose(m Met, pods []*corev1.Pod, usage map[types.UID]*stats.PodStats, maxGrace time.Duration) *Eviction {
	order := rank(m, pods, usage)
	if len(order) == 0 {
		return nil
	}
	p := order[0].pod
	e := &Eviction{Pod: p, Signal: m.Signal, Grace: immediate}
	if m.Grace > 0 {
		e.Grace = max(min(maxGrace, graceOf(p)), immediate)
	}
	about, _ := m.Signal.trait()
	format := resource.BinarySI
	if about.resource == resourceInodes || about.resource == resourcePids {
		format = resource.DecimalSI
	}
	quantity := func(n int64) *resource.Quantity { return resource.NewQuantity(n, format) }
	var text strings.Builder
	fmt.Fprintf(&text, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", about.resource, quantity(m.Value.of(m.Capacity)), quantity(m.Available))
	var names, amounts []string
	if s := usage[p.UID]; s != nil && about.resource != resourcePids {
		for i := range s.Containers {
			c := &s.Containers[i]
			n, request := usedBy(about.resource, c), requestOf(p, c.Name, about.resource)
			if n <= request.Value() {
				continue
			}
			fmt.Fprintf(&text, "Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, quantity(n), request.String(), about.resource)
			names, amounts = append(names, c.Name), append(amounts, quantity(n).String())
		}
	}
	e.Message = text.String()
	e.Annotations = map[string]string{annotationStarved: string(about.resource), annotationOffenders: strings.Join(names, ","), annotationUsage: strings.Join(amounts, ",")}
	return e
}

func graceOf(p *corev1.Pod) time.Duration {
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return 30 * time.Second
}

// requestOf is what a container requests.
func requestOf(p *corev1.Pod, name string, r corev1.ResourceName) resource.Quantity {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if c.Name == name {
			return c.Resources.Requests[r]
		}
	}
	return resource.Quantity{}
}

// Limited is whether a pod has limits on what it keeps on the node's disk.
func Limited(p *corev1.Pod) bool {
	for _, v := range p.Spec.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil && !v.EmptyDir.SizeLimit.IsZero() {
			return true
		}
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if _, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]; ok {
			return true
		}
	}
	return false
}

// Exceeded is the end of a pod that uses more of the node's disk than it may, nil if it does not. Limits hold for critical pods,
// too, but not for static ones.
func Exceeded(p *corev1.Pod, s *stats.PodStats) *Eviction {
	if s == nil || p.Annotations[annotationSource] != "" && p.Annotations[annotationSource] != "api" {
		return nil
	}
	end := func(signal Signal, format string, args ...any) *Eviction {
		return &Eviction{Pod: p, Signal: signal, Message: fmt.Sprintf(format, args...), Grace: immediate}
	}
	for _, v := range p.Spec.Volumes {
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.IsZero() {
			continue
		}
		i := slices.IndexFunc(s.VolumeStats, func(have stats.VolumeStats) bool { return have.Name == v.Name })
		if i >= 0 && count(s.VolumeStats[i].UsedBytes) > v.EmptyDir.SizeLimit.Value() {
			return end(emptyDirLimit, "Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	if limit, ok := helpers.PodLimits(p, helpers.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]; ok && onDisk(corev1.ResourceEphemeralStorage, p, s) > limit.Value() {
		return end(podLimit, "Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		for _, spec := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			limit, ok := spec.Resources.Limits[corev1.ResourceEphemeralStorage]
			if ok && spec.Name == c.Name && diskOf(corev1.ResourceEphemeralStorage, c) > limit.Value() {
				return end(containerLimit, "Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
			}
		}
	}
	return nil
}
