//go:build linux

package runtime

import (
	"context"
	"time"

	"github.com/opencontainers/cgroups"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metric is a figure of a container, under the name that cAdvisor gave it. Values are whole numbers in the unit of the name,
// as CRI has no others.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	read       func(*cgroups.Stats) uint64
}

// containerMetrics is all that is told of a container.
var containerMetrics = []metric{
	{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return s.CpuStats.CpuUsage.TotalUsage / uint64(time.Second) }},
	{"container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return s.CpuStats.CpuUsage.UsageInUsermode / uint64(time.Second) }},
	{"container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return s.CpuStats.CpuUsage.UsageInKernelmode / uint64(time.Second) }},
	{"container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return s.CpuStats.ThrottlingData.Periods }},
	{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return s.CpuStats.ThrottlingData.ThrottledPeriods }},
	{"container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return s.CpuStats.ThrottlingData.ThrottledTime / uint64(time.Second) }},
	{"container_memory_working_set_bytes", "Current working set in bytes.", runtimeapi.MetricType_GAUGE, workingSet},
	{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", runtimeapi.MetricType_GAUGE, func(s *cgroups.Stats) uint64 { return s.MemoryStats.Usage.Usage }},
	{"container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", runtimeapi.MetricType_GAUGE, func(s *cgroups.Stats) uint64 { return s.MemoryStats.Usage.MaxUsage }},
	{"container_memory_rss", "Size of RSS in bytes.", runtimeapi.MetricType_GAUGE, func(s *cgroups.Stats) uint64 { return field(s, "total_rss", "anon") }},
	{"container_memory_cache", "Number of bytes of page cache memory.", runtimeapi.MetricType_GAUGE, func(s *cgroups.Stats) uint64 { return field(s, "total_cache", "file") }},
	{"container_memory_mapped_file", "Size of memory mapped files in bytes.", runtimeapi.MetricType_GAUGE, func(s *cgroups.Stats) uint64 { return field(s, "total_mapped_file", "file_mapped") }},
	{"container_memory_swap", "Container swap usage in bytes.", runtimeapi.MetricType_GAUGE, func(s *cgroups.Stats) uint64 { return s.MemoryStats.SwapOnlyUsage.Usage }},
	{"container_memory_failcnt", "Number of memory usage hits limits.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return s.MemoryStats.Usage.Failcnt }},
	{"container_spec_memory_limit_bytes", "Memory limit for the container, 0 for none.", runtimeapi.MetricType_GAUGE, func(s *cgroups.Stats) uint64 {
		if unlimited(s.MemoryStats.Usage.Limit) {
			return 0
		}
		return s.MemoryStats.Usage.Limit
	}},
	{"container_processes", "Number of processes running inside the container.", runtimeapi.MetricType_GAUGE, func(s *cgroups.Stats) uint64 { return s.PidsStats.Current }},
	{"container_fs_reads_bytes_total", "Cumulative count of bytes read.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return moved(s, "Read", "read") }},
	{"container_fs_writes_bytes_total", "Cumulative count of bytes written.", runtimeapi.MetricType_COUNTER, func(s *cgroups.Stats) uint64 { return moved(s, "Write", "write") }},
}

// moved sums bytes that went from or to disks.
func moved(s *cgroups.Stats, names ...string) (sum uint64) {
	for _, e := range s.BlkioStats.IoServiceBytesRecursive {
		for _, n := range names {
			if e.Op == n {
				sum += e.Value
			}
		}
	}
	return sum
}

// networkMetrics is what is told of each link of a sandbox.
var networkMetrics = []struct {
	name, help string
	read       func(*runtimeapi.NetworkInterfaceUsage) *runtimeapi.UInt64Value
}{
	{"container_network_receive_bytes_total", "Cumulative count of bytes received.", (*runtimeapi.NetworkInterfaceUsage).GetRxBytes},
	{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", (*runtimeapi.NetworkInterfaceUsage).GetRxErrors},
	{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", (*runtimeapi.NetworkInterfaceUsage).GetTxBytes},
	{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", (*runtimeapi.NetworkInterfaceUsage).GetTxErrors},
}

// Labels of metrics.
var (
	containerLabels = []string{"id", "name", "image", "container", "pod", "namespace"}
	networkLabels   = []string{"id", "pod", "namespace", "interface"}
)

// ListMetricDescriptors tells which metrics there are.
func (t *meters) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	out := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range containerMetrics {
		out.Descriptors = append(out.Descriptors, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: containerLabels})
	}
	for _, m := range networkMetrics {
		out.Descriptors = append(out.Descriptors, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: networkLabels})
	}
	return out, nil
}

// ListPodSandboxMetrics measures the sandboxes that are ready.
func (t *meters) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	all, err := t.metrics(ctx)
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: all}, err
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in pages.
func (t *meters) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	all, err := t.metrics(out.Context())
	if err != nil {
		return err
	}
	return stream(all, func(items []*runtimeapi.PodSandboxMetrics) error {
		return out.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: items})
	})
}

func (t *meters) metrics(ctx context.Context) (out []*runtimeapi.PodSandboxMetrics, err error) {
	for _, s := range t.m.table.allSandboxes() {
		rec := s.record()
		if !rec.ready() {
			continue
		}
		pod := rec.Config.v.Metadata
		of := &runtimeapi.PodSandboxMetrics{PodSandboxId: s.id}
		if rec.NetNS != "" {
			usage, err := network(t.m.clock.Now(), rec.NetNS)
			if err != nil && s.record().ready() {
				return nil, err
			}
			of.Metrics = linkMetrics(usage, s.id, pod)
		}
		for _, c := range t.m.table.allContainers(s.id) {
			_, stats, err := t.measure(ctx, c)
			if err != nil && t.m.table.knows(c) {
				return nil, err
			}
			if stats == nil {
				continue
			}
			config := c.record().Config.v
			labels := []string{c.id, c.id, config.GetImage().GetImage(), config.Metadata.Name, pod.Name, pod.Namespace}
			cm := &runtimeapi.ContainerMetrics{ContainerId: c.id}
			for _, m := range containerMetrics {
				cm.Metrics = append(cm.Metrics, &runtimeapi.Metric{Name: m.name, MetricType: m.kind, LabelValues: labels, Value: value(m.read(stats))})
			}
			of.ContainerMetrics = append(of.ContainerMetrics, cm)
		}
		out = append(out, of)
	}
	return out, nil
}

// linkMetrics are the figures of a sandbox's links.
func linkMetrics(usage *runtimeapi.NetworkUsage, id string, pod *runtimeapi.PodSandboxMetadata) (out []*runtimeapi.Metric) {
	if usage.GetDefaultInterface() == nil {
		return nil
	}
	for _, l := range append([]*runtimeapi.NetworkInterfaceUsage{usage.DefaultInterface}, usage.Interfaces...) {
		for _, m := range networkMetrics {
			out = append(out, &runtimeapi.Metric{
				Name: m.name, MetricType: runtimeapi.MetricType_COUNTER, LabelValues: []string{id, pod.Name, pod.Namespace, l.Name}, Value: m.read(l),
			})
		}
	}
	return out
}
