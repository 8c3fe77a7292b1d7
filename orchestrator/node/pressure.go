package node

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubeletstats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
	"github.com/keelson-io/keelson/orchestrator/node/collect"
	"github.com/keelson-io/keelson/orchestrator/node/eviction"
	"github.com/keelson-io/keelson/orchestrator/node/registration"
	"github.com/keelson-io/keelson/orchestrator/node/stats"
	"github.com/keelson-io/keelson/orchestrator/node/workers"
)

// Eviction says when pods have to go because the node runs out of something.
type Eviction struct {
	Thresholds []eviction.Threshold
	Transition time.Duration // for which pressure lasts after it was seen; 0: 5 min
	MaxGrace   time.Duration // of pods that go for a soft threshold; 0: none
	Images     collect.Policy
}

// measure makes the parts that know what pods use, and that end them when that is too much.
func (p *pods) measure() (err error) {
	p.usage = stats.New(stats.Config{
		Node: p.cfg.Name, Runtime: p.runtime, Images: p.images, Dir: p.cfg.Dir, LogDir: p.cfg.Logs, Clock: p.cfg.Clock, Volumes: p.volumeStats,
	})
	cfg := p.cfg.Eviction
	p.evictions, err = eviction.New(eviction.Config{
		Node: eviction.Node{
			Signals: p.signals, Pods: p.workers.Active, Usage: p.podUsage, Reclaim: p.reclaim, End: p.evict, Ended: p.workers.Ended,
			Starving: func(r corev1.ResourceName) {
				p.events.Eventf(p.register.Node(), corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", r)
			},
		},
		Thresholds: cfg.Thresholds, Transition: cfg.Transition, MaxGrace: cfg.MaxGrace, Clock: p.cfg.Clock, Logger: p.cfg.Logger.Named("eviction"),
	})
	if err == nil {
		p.pressure.Store(p.evictions)
	}
	return err
}

// underPressure is what the node runs out of: nothing as long as that is not watched.
func (a *Agent) underPressure() registration.Pressure {
	m := a.pressure.Load()
	if m == nil {
		return registration.Pressure{}
	}
	return registration.Pressure{Memory: m.Under(corev1.NodeMemoryPressure), Disk: m.Under(corev1.NodeDiskPressure), PIDs: m.Under(corev1.NodePIDPressure)}
}

// admit refuses pods that the node does not take while it runs out of something.
func (a *Agent) admit(pod *corev1.Pod) *workers.Rejection {
	m := a.pressure.Load()
	if m == nil {
		return nil
	}
	if why := m.Admit(pod, cgroup.QOS(pod) == corev1.PodQOSBestEffort); why != "" {
		return &workers.Rejection{Reason: eviction.Reason, Message: why}
	}
	return nil
}

// signals measures what is left of each signal.
func (p *pods) signals(ctx context.Context) (map[eviction.Signal]eviction.Observation, error) {
	left, out := p.usage.Left(ctx), map[eviction.Signal]eviction.Observation{}
	for s, share := range map[eviction.Signal]*stats.Share{
		eviction.MemoryAvailable: left.Memory, eviction.PIDAvailable: left.PIDs, eviction.NodeFsAvailable: left.NodeFs, eviction.NodeFsInodesFree: left.NodeInodes,
		eviction.ImageFsAvailable: left.ImageFs, eviction.ImageFsInodesFree: left.ImageInodes,
	} {
		if share != nil {
			out[s] = eviction.Observation{Available: share.Available, Capacity: share.Capacity}
		}
	}
	if used, limit, ok := p.tree.Memory(); ok {
		out[eviction.PodMemory] = eviction.Observation{Available: max(limit-used, 0), Capacity: limit}
	}
	return out, nil
}

// podUsage measures all pods.
func (p *pods) podUsage(ctx context.Context) (map[types.UID]*kubeletstats.PodStats, error) {
	s, err := p.usage.Summary(ctx, false)
	if err != nil {
		return nil, err
	}
	out := make(map[types.UID]*kubeletstats.PodStats, len(s.Pods))
	for i := range s.Pods {
		out[types.UID(s.Pods[i].PodRef.UID)] = &s.Pods[i]
	}
	return out, nil
}

// volumeStats measures the volumes of a pod, none if it has none yet.
func (p *pods) volumeStats(uid types.UID) (out []kubeletstats.VolumeStats) {
	all, err := p.volumes.Stats(uid)
	if err != nil {
		return nil
	}
	for _, v := range all {
		n := func(i int64) *uint64 { return ptr.To(uint64(max(i, 0))) }
		one := kubeletstats.VolumeStats{Name: v.Name}
		one.Time.Time = v.Time
		one.UsedBytes, one.CapacityBytes, one.AvailableBytes = n(v.Used), n(v.Capacity), n(v.Available)
		one.InodesUsed, one.Inodes, one.InodesFree = n(v.InodesUsed), n(v.Inodes), n(v.InodesFree)
		if v.Claim != nil {
			one.PVCRef = &kubeletstats.PVCReference{Name: v.Claim.Name, Namespace: v.Claim.Namespace}
		}
		out = append(out, one)
	}
	return out
}

// evict ends a pod.
func (p *pods) evict(e *eviction.Eviction) bool {
	grace := e.Grace
	if !p.workers.End(e.Pod.UID, workers.Verdict{Reason: eviction.Reason, Message: e.Message, Grace: &grace, Conditions: []corev1.PodCondition{e.Condition()}}) {
		return false
	}
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: e.Pod.Namespace, Name: e.Pod.Name, UID: e.Pod.UID, ResourceVersion: e.Pod.ResourceVersion}
	p.events.AnnotatedEventf(ref, e.Annotations, corev1.EventTypeWarning, eviction.Reason, "%s", e.Message)
	return true
}

// reservedOf is what hard thresholds keep from pods.
func (a *Agent) reservedOf(capacity corev1.ResourceList) corev1.ResourceList {
	return eviction.Reserved(a.cfg.Eviction.Thresholds, capacity)
}
