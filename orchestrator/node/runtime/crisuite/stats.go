//go:build linux

package crisuite

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var statsCases = map[string]func(*testing.T, *suite){
	"stats-container": statsContainer,
	"stats-sandbox":   statsSandbox,
	"stats-metrics":   statsMetrics,
	"stats-streams":   statsStreams,
}

func statsContainer(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"all", "spin", "200ms", "then", "eat", "20"}, func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources.MemoryLimitInBytes = 256 << 20
	})
	s.says(t, id, "ate 20")
	equal(t, "write", s.exec(t, id, "write", "/data/new", "0123456789").ExitCode, 0)
	var st *runtimeapi.ContainerStats
	eventually(t, "there are figures", func() bool { // containerd measures the disk from time to time
		out, err := s.rt.ContainerStats(ctx(t), &runtimeapi.ContainerStatsRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		st = out.Stats
		return st.WritableLayer.GetUsedBytes().GetValue() > 0
	})
	equal(t, "ID", st.Attributes.Id, id)
	if used := st.Cpu.GetUsageCoreNanoSeconds().GetValue(); used < 100e6 {
		t.Errorf("cpu: %d ns", used)
	}
	if set := st.Memory.GetWorkingSetBytes().GetValue(); set < 20<<20 || set > 256<<20 {
		t.Errorf("memory: %d bytes", set)
	}
	if free := st.Memory.GetAvailableBytes().GetValue(); free == 0 || free > 236<<20 {
		t.Errorf("memory left: %d bytes", free)
	}
	if st.WritableLayer.GetInodesUsed().GetValue() == 0 || st.WritableLayer.GetFsId().GetMountpoint() == "" {
		t.Errorf("writable layer: %v", st.WritableLayer)
	}
	list, err := s.rt.ListContainerStats(ctx(t), &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "figures of the pod's containers", len(list.Stats), 1)
	if _, err := s.rt.ContainerStats(ctx(t), &runtimeapi.ContainerStatsRequest{ContainerId: "none"}); err == nil {
		t.Error("a container that is none has figures")
	}
}

func statsSandbox(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"all", "spin", "200ms", "then", "eat", "20"})
	s.says(t, id, "ate 20")
	out, err := s.rt.PodSandboxStats(ctx(t), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	st := out.Stats
	equal(t, "ID", st.Attributes.Id, p.id)
	equal(t, "containers", len(st.Linux.Containers), 1)
	if s.CgroupParent == "" && st.Linux.Cpu.GetUsageCoreNanoSeconds().GetValue() < 100e6 {
		t.Errorf("cpu: %v", st.Linux.Cpu)
	}
	list, err := s.rt.ListPodSandboxStats(ctx(t), &runtimeapi.ListPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: p.id}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "figures of the pod", len(list.Stats), 1)
}

func statsMetrics(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"pause"})
	d, err := s.rt.ListMetricDescriptors(ctx(t), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Descriptors) == 0 {
		t.Error("no metrics are described")
	}
	if !s.Complete {
		return
	}
	labels := map[string]int{}
	for _, m := range d.Descriptors {
		labels[m.Name] = len(m.LabelKeys)
	}
	var found *runtimeapi.PodSandboxMetrics
	eventually(t, "the pod has figures", func() bool {
		out, err := s.rt.ListPodSandboxMetrics(ctx(t), &runtimeapi.ListPodSandboxMetricsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range out.PodMetrics {
			if pod.PodSandboxId == p.id && len(pod.ContainerMetrics) > 0 {
				found = pod
			}
		}
		return found != nil
	})
	for _, c := range found.ContainerMetrics {
		if c.ContainerId != id || len(c.Metrics) == 0 {
			t.Errorf("container %s has %d figures", c.ContainerId, len(c.Metrics))
		}
		for _, m := range c.Metrics {
			if n, ok := labels[m.Name]; !ok || n != len(m.LabelValues) {
				t.Errorf("%s has the labels %v, described are %d", m.Name, m.LabelValues, n)
			}
		}
	}
}

// drain counts the items of a stream that are wanted.
func drain[T any](t testing.TB, stream grpc.ServerStreamingClient[T], err error, count func(*T) int) (n int) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		n += count(m)
	}
}

// statsStreams: the lists that are streamed have what the others have.
func statsStreams(t *testing.T, s *suite) {
	if !s.Complete {
		return
	}
	p := s.pod(t)
	s.start(t, p, []string{"pause"})
	s.start(t, p, []string{"pause"})
	pods, err := s.rt.StreamPodSandboxes(ctx(t), &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: p.id}})
	equal(t, "sandboxes", drain(t, pods, err, func(m *runtimeapi.StreamPodSandboxesResponse) int { return len(m.PodSandboxes) }), 1)
	containers, err := s.rt.StreamContainers(ctx(t), &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: p.id}})
	equal(t, "containers", drain(t, containers, err, func(m *runtimeapi.StreamContainersResponse) int { return len(m.Containers) }), 2)
	figures, err := s.rt.StreamContainerStats(ctx(t), &runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}})
	equal(t, "figures of containers", drain(t, figures, err, func(m *runtimeapi.StreamContainerStatsResponse) int { return len(m.ContainerStats) }), 2)
	sums, err := s.rt.StreamPodSandboxStats(ctx(t), &runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: p.id}})
	equal(t, "figures of sandboxes", drain(t, sums, err, func(m *runtimeapi.StreamPodSandboxStatsResponse) int { return len(m.PodSandboxStats) }), 1)
	metrics, err := s.rt.StreamPodSandboxMetrics(ctx(t), &runtimeapi.StreamPodSandboxMetricsRequest{})
	equal(t, "metrics", drain(t, metrics, err, func(m *runtimeapi.StreamPodSandboxMetricsResponse) (n int) {
		for _, pod := range m.PodSandboxMetrics {
			if pod.PodSandboxId == p.id {
				n += len(pod.ContainerMetrics)
			}
		}
		return n
	}), 2)
	images, err := s.images.StreamImages(ctx(t), &runtimeapi.StreamImagesRequest{})
	if n := drain(t, images, err, func(m *runtimeapi.StreamImagesResponse) int { return len(m.Images) }); n == 0 {
		t.Error("no images")
	}
}
