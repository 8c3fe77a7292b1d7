//go:build linux

package crisuite

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var statsCases = map[string]func(*testing.T, *suite){
	"stats-container": statsContainer,
	"stats-sandbox":   statsSandbox,
	"stats-metrics":   statsMetrics,
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
