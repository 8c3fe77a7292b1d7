//go:build linux

package runtime

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// measuring bounds how many containers are measured at the same time.
const measuring = 16

// meters measures what containers and sandboxes use.
type meters struct{ m *machine }

func newMeters(m *machine) *meters { return &meters{m} }

// sampler derives a rate from a counter.
type sampler struct {
	mu    sync.Mutex
	at    time.Time
	value uint64
	rate  uint64 // per second
	known bool
}

// minSample is the shortest time that a rate is derived from.
const minSample = 100 * time.Millisecond

// rateOf is how fast a counter that is at value now grows per second, in its unit; false if nothing is known yet.
func (s *sampler) rateOf(now time.Time, value uint64) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	span := now.Sub(s.at)
	switch {
	case s.at.IsZero() || value < s.value:
		s.at, s.value, s.known = now, value, false
	case span >= minSample:
		s.rate, s.known = uint64(float64(value-s.value)/span.Seconds()), true
		s.at, s.value = now, value
	}
	return s.rate, s.known
}

// measure is what a running container uses.
func (t *meters) measure(ctx context.Context, c *container) (*runtimeapi.ContainerStats, *cgroups.Stats, error) {
	rec := c.record()
	config := rec.Config.v
	now := t.m.clock.Now()
	out := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{
		Id: c.id, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations,
	}}
	bytes, inodes, err := t.m.cfg.Images.Usage(c.id)
	if err != nil {
		return nil, nil, fmt.Errorf("runtime: container %s: %w", c.id, err)
	}
	out.WritableLayer = &runtimeapi.FilesystemUsage{
		Timestamp: now.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: t.m.cfg.Root},
		UsedBytes: value(bytes), InodesUsed: value(inodes),
	}
	client := c.sandbox.client()
	if rec.Run.State != runtimeapi.ContainerState_CONTAINER_RUNNING || client == nil {
		return out, nil, nil
	}
	stats, err := client.Stats(ctx, c.id)
	if err != nil {
		if c.record().Run.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return out, nil, nil // it ended meanwhile
		}
		return nil, nil, fmt.Errorf("runtime: container %s: %w", c.id, err)
	}
	out.Cpu, out.Memory = t.cpu(&c.usage, now, stats), memory(now, stats)
	out.Swap, out.Io = swap(now, stats), &runtimeapi.IoUsage{Timestamp: now.UnixNano(), Psi: psi(stats.BlkioStats.PSI)}
	return out, stats, nil
}

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (t *meters) cpu(s *sampler, now time.Time, stats *cgroups.Stats) *runtimeapi.CpuUsage {
	total := stats.CpuStats.CpuUsage.TotalUsage
	out := &runtimeapi.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: value(total), Psi: psi(stats.CpuStats.PSI)}
	if rate, ok := s.rateOf(now, total); ok {
		out.UsageNanoCores = value(rate)
	}
	return out
}

// field is a line of memory.stat under its name in cgroup v1 or v2.
func field(stats *cgroups.Stats, v1, v2 string) uint64 {
	if n, ok := stats.MemoryStats.Stats[v1]; ok {
		return n
	}
	return stats.MemoryStats.Stats[v2]
}

func workingSet(stats *cgroups.Stats) uint64 {
	return less(stats.MemoryStats.Usage.Usage, field(stats, "total_inactive_file", "inactive_file"))
}

// less is a - b, or 0.
func less(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

// unlimited is a limit that is none: cgroup v1 has the largest number of whole pages, v2 the largest number.
func unlimited(limit uint64) bool { return limit == 0 || limit >= math.MaxInt64/2 }

func memory(now time.Time, stats *cgroups.Stats) *runtimeapi.MemoryUsage {
	set := workingSet(stats)
	out := &runtimeapi.MemoryUsage{
		Timestamp: now.UnixNano(), WorkingSetBytes: value(set), UsageBytes: value(stats.MemoryStats.Usage.Usage),
		RssBytes:   value(field(stats, "total_rss", "anon")),
		PageFaults: value(field(stats, "total_pgfault", "pgfault")), MajorPageFaults: value(field(stats, "total_pgmajfault", "pgmajfault")),
		Psi: psi(stats.MemoryStats.PSI),
	}
	if limit := stats.MemoryStats.Usage.Limit; !unlimited(limit) {
		out.AvailableBytes = value(less(limit, set))
	}
	return out
}

func swap(now time.Time, stats *cgroups.Stats) *runtimeapi.SwapUsage {
	out := &runtimeapi.SwapUsage{Timestamp: now.UnixNano()}
	used, limit := stats.MemoryStats.SwapOnlyUsage.Usage, stats.MemoryStats.SwapOnlyUsage.Limit
	out.SwapUsageBytes = value(used)
	if !unlimited(limit) {
		out.SwapAvailableBytes = value(less(limit, used))
	}
	return out
}

func psi(in *cgroups.PSIStats) *runtimeapi.PsiStats {
	if in == nil {
		return nil
	}
	data := func(d cgroups.PSIData) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: d.Total * uint64(time.Microsecond), Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300}
	}
	return &runtimeapi.PsiStats{Full: data(in.Full), Some: data(in.Some)}
}

// ContainerStats measures one container.
func (t *meters) ContainerStats(ctx context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := t.m.table.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	stats, _, err := t.measure(ctx, c)
	return &runtimeapi.ContainerStatsResponse{Stats: stats}, err
}

// ListContainerStats measures the containers that run.
func (t *meters) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	stats, err := t.containers(ctx, req.GetFilter())
	return &runtimeapi.ListContainerStatsResponse{Stats: stats}, err
}

// StreamContainerStats is ListContainerStats in pages.
func (t *meters) StreamContainerStats(req *runtimeapi.StreamContainerStatsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	stats, err := t.containers(out.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return stream(stats, func(items []*runtimeapi.ContainerStats) error {
		return out.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: items})
	})
}

func (t *meters) containers(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	var wanted []*container
	for _, c := range t.m.table.allContainers("") {
		rec := c.record()
		if rec.Run.State == runtimeapi.ContainerState_CONTAINER_RUNNING && strings.HasPrefix(c.id, f.GetId()) &&
			strings.HasPrefix(c.sandbox.id, f.GetPodSandboxId()) && matches(f.GetLabelSelector(), rec.Config.v.Labels) {
			wanted = append(wanted, c)
		}
	}
	return t.all(ctx, wanted)
}

// all measures containers. Those that are removed meanwhile are left out.
func (t *meters) all(ctx context.Context, wanted []*container) ([]*runtimeapi.ContainerStats, error) {
	found := make([]*runtimeapi.ContainerStats, len(wanted))
	var g errgroup.Group
	g.SetLimit(measuring)
	for i, c := range wanted {
		g.Go(func() error {
			stats, _, err := t.measure(ctx, c)
			if err != nil && t.m.table.knows(c) {
				return err
			}
			found[i] = stats
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []*runtimeapi.ContainerStats
	for _, s := range found {
		if s != nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// PodSandboxStats measures one sandbox.
func (t *meters) PodSandboxStats(ctx context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	s, err := t.m.table.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	stats, err := t.pod(ctx, s)
	return &runtimeapi.PodSandboxStatsResponse{Stats: stats}, err
}

// ListPodSandboxStats measures the sandboxes that are ready.
func (t *meters) ListPodSandboxStats(ctx context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	stats, err := t.pods(ctx, req.GetFilter())
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: stats}, err
}

// StreamPodSandboxStats is ListPodSandboxStats in pages.
func (t *meters) StreamPodSandboxStats(req *runtimeapi.StreamPodSandboxStatsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	stats, err := t.pods(out.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return stream(stats, func(items []*runtimeapi.PodSandboxStats) error {
		return out.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: items})
	})
}

func (t *meters) pods(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) (out []*runtimeapi.PodSandboxStats, err error) {
	for _, s := range t.m.table.allSandboxes() {
		rec := s.record()
		if !rec.ready() || !strings.HasPrefix(s.id, f.GetId()) || !matches(f.GetLabelSelector(), rec.Config.v.Labels) {
			continue
		}
		stats, err := t.pod(ctx, s)
		switch {
		case err == nil:
			out = append(out, stats)
		case s.record().ready():
			return nil, err
		}
	}
	return out, nil
}

// pod measures a sandbox: its cgroup, its network, and the containers that run.
func (t *meters) pod(ctx context.Context, s *sandbox) (*runtimeapi.PodSandboxStats, error) {
	rec := s.record()
	config, now := rec.Config.v, t.m.clock.Now()
	out := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: s.id, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations},
		Linux:      &runtimeapi.LinuxPodSandboxStats{},
	}
	var running []*container
	for _, c := range t.m.table.allContainers(s.id) {
		if c.record().Run.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			running = append(running, c)
		}
	}
	var err error
	if out.Linux.Containers, err = t.all(ctx, running); err != nil {
		return nil, err
	}
	if stats, err := t.m.cgroupStats(rec.Cgroup); err == nil { // without containers there may be no cgroup yet
		out.Linux.Cpu, out.Linux.Memory = t.cpu(&s.usage, now, stats), memory(now, stats)
		out.Linux.Io = &runtimeapi.IoUsage{Timestamp: now.UnixNano(), Psi: psi(stats.BlkioStats.PSI)}
		out.Linux.Process = &runtimeapi.ProcessUsage{Timestamp: now.UnixNano(), ProcessCount: value(stats.PidsStats.Current)}
	}
	if rec.NetNS != "" && rec.ready() {
		if out.Linux.Network, err = network(now, rec.NetNS); err != nil {
			return nil, fmt.Errorf("runtime: sandbox %s: %w", s.id, err)
		}
	}
	return out, nil
}

// cgroupStats measures a cgroup and what is below it.
func (m *machine) cgroupStats(parent string) (*cgroups.Stats, error) {
	if m.cfg.CgroupDriver == Systemd && !strings.Contains(parent, "/") {
		parent = "/" + slicePath(parent)
	}
	cg, err := manager.New(&cgroups.Cgroup{Path: parent, Resources: &cgroups.Resources{}})
	if err != nil {
		return nil, err
	}
	if !cg.Exists() {
		return nil, fmt.Errorf("runtime: no cgroup %s", parent)
	}
	return cg.GetStats()
}

// network counts what went through the links of a network namespace.
func network(now time.Time, path string) (*runtimeapi.NetworkUsage, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", path, err)
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns, 0)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", path, err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", path, err)
	}
	out := &runtimeapi.NetworkUsage{Timestamp: now.UnixNano()}
	for _, l := range links {
		a := l.Attrs()
		if a.Name == "lo" || a.Statistics == nil {
			continue
		}
		usage := &runtimeapi.NetworkInterfaceUsage{
			Name: a.Name, RxBytes: value(a.Statistics.RxBytes), RxErrors: value(a.Statistics.RxErrors),
			TxBytes: value(a.Statistics.TxBytes), TxErrors: value(a.Statistics.TxErrors),
		}
		if out.DefaultInterface == nil {
			out.DefaultInterface = usage
		} else {
			out.Interfaces = append(out.Interfaces, usage)
		}
	}
	return out, nil
}
