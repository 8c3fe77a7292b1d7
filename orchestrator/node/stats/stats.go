package stats

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Runtime is the part of a CRI runtime that measures.
type Runtime interface {
	ListPodSandboxStats(ctx context.Context, in *runtimeapi.ListPodSandboxStatsRequest, opts ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error)
	ListContainerStats(ctx context.Context, in *runtimeapi.ListContainerStatsRequest, opts ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error)
	ListPodSandbox(ctx context.Context, in *runtimeapi.ListPodSandboxRequest, opts ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error)
	ListContainers(ctx context.Context, in *runtimeapi.ListContainersRequest, opts ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error)
}

// Images is the part of a CRI image service that measures.
type Images interface {
	ImageFsInfo(ctx context.Context, in *runtimeapi.ImageFsInfoRequest, opts ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error)
}

// Config is what Stats are made of. Node, Runtime and Images must be set.
type Config struct {
	Node    string
	Runtime Runtime
	Images  Images
	// Dir is on the file system of the node's own files; "": /.
	Dir string
	// LogDir has a folder <namespace>_<name>_<uid> for every pod, and in it one for every container; "": logs are not measured.
	LogDir string
	// Volumes measures the volumes of a pod; nil: none are.
	Volumes func(pod types.UID) []stats.VolumeStats
	// Root is the root of the machine's files; nil: /.
	Root  fs.FS
	Clock clock.Clock // nil: clock.Real
}

// Stats is described in the package comment.
type Stats struct {
	cfg     Config
	started time.Time

	mu     sync.Mutex
	last   map[string]sample // by what was measured
	images string            // directory of images, once it is known
}

// sample is how much processor time something had used when it was measured.
type sample struct {
	at    time.Time
	used  uint64 // nanoseconds
	cores uint64 // billionths of a processor, between the last two samples
	known bool   // there were two
}

// New makes Stats.
func New(cfg Config) *Stats {
	if cfg.Dir == "" {
		cfg.Dir = "/"
	}
	if cfg.Root == nil {
		cfg.Root = os.DirFS("/")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	return &Stats{cfg: cfg, started: cfg.Clock.Now(), last: map[string]sample{}}
}

// minWindow is how far apart two samples have to be to tell a rate.
const minWindow = 500 * time.Millisecond

// rate is how much processor something uses, in billionths of one, known after its second measurement.
func (s *Stats) rate(key string, at time.Time, used uint64) *uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, there := s.last[key]
	switch window := at.Sub(old.at); {
	case !there || used < old.used: // it began anew
		s.last[key] = sample{at: at, used: used}
		return nil
	case window >= minWindow:
		old = sample{at: at, used: used, cores: uint64(float64(used-old.used) / window.Seconds()), known: true}
	}
	s.last[key] = old
	if !old.known {
		return nil
	}
	cores := old.cores
	return &cores
}

// forget drops what is no longer measured.
func (s *Stats) forget(seen map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.last {
		if !seen[key] {
			delete(s.last, key)
		}
	}
}

// Summary measures all there is.
func (s *Stats) Summary(ctx context.Context, onlyCPUAndMemory bool) (*stats.Summary, error) {
	m, err := s.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	out := &stats.Summary{Node: s.node()}
	seen := map[string]bool{nodeKey: true}
	for _, p := range m.pods {
		out.Pods = append(out.Pods, s.pod(p, seen))
	}
	s.forget(seen)
	if onlyCPUAndMemory {
		reduce(out)
		return out, nil
	}
	s.nodeMore(ctx, &out.Node)
	for i := range out.Pods {
		s.storage(&out.Pods[i], out.Node.Fs)
	}
	return out, nil
}

// reduce leaves processors and memory only.
func reduce(s *stats.Summary) {
	n := &s.Node
	s.Node = stats.NodeStats{NodeName: n.NodeName, StartTime: n.StartTime, CPU: n.CPU, Memory: n.Memory, Swap: n.Swap}
	for i := range s.Pods {
		p := &s.Pods[i]
		s.Pods[i] = stats.PodStats{PodRef: p.PodRef, StartTime: p.StartTime, CPU: p.CPU, Memory: p.Memory, Containers: p.Containers, Swap: p.Swap}
		for j := range p.Containers {
			c := &p.Containers[j]
			p.Containers[j] = stats.ContainerStats{Name: c.Name, StartTime: c.StartTime, CPU: c.CPU, Memory: c.Memory, Swap: c.Swap}
		}
	}
}

// at is a moment that the runtime tells, in nanoseconds; 0 is now.
func (s *Stats) at(ns int64) metav1.Time {
	if ns == 0 {
		return metav1.Time{Time: s.cfg.Clock.Now()}
	}
	return metav1.Time{Time: time.Unix(0, ns)}
}
