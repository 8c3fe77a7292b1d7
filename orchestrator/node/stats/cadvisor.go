package stats

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Containers are the metrics that dashboards know by the names that cAdvisor gave them. A pod as a whole has no container.
func (s *Stats) Containers() prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(&containers{of: s, last: prometheus.NewDesc("container_scrape_error", "1 if there was an error, 0 otherwise.", nil, nil)}) // it is alone
	return r
}

// containers collects the metrics of Containers.
type containers struct {
	of   *Stats
	last *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *containers) Describe(to chan<- *prometheus.Desc) { to <- c.last }

var (
	containerLabels = []string{"container", "id", "image", "name", "namespace", "pod"}
	networkLabels   = []string{"id", "interface", "namespace", "pod"}
)

// named are cAdvisor's metrics of a container.
type named struct {
	cpu, working, usage, rss, swap, fs, start, minor, major *prometheus.Desc
}

func containerMetrics() named {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("container_"+name, help, append(labels, containerLabels...), nil)
	}
	return named{
		cpu:     desc("cpu_usage_seconds_total", "Processor time that was used, in core-seconds.", "cpu"),
		working: desc("memory_working_set_bytes", "Working set, in bytes."),
		usage:   desc("memory_usage_bytes", "Memory that is used, in bytes, however long ago it was needed."),
		rss:     desc("memory_rss", "Anonymous memory, in bytes."),
		swap:    desc("memory_swap", "Swap that is used, in bytes."),
		fs:      desc("fs_usage_bytes", "Bytes that were written to the container's own layer and are there."),
		start:   desc("start_time_seconds", "When it was started, in seconds since 1970."),
		minor:   desc("memory_minor_page_faults_total", "Page faults that needed no reading."),
		major:   desc("memory_major_page_faults_total", "Page faults for which something was read."),
	}
}

// Collect implements prometheus.Collector.
func (c *containers) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), measureTimeout)
	defer cancel()
	m, err := c.of.measure(ctx)
	if err != nil {
		to <- prometheus.MustNewConstMetric(c.last, prometheus.GaugeValue, 1)
		return
	}
	to <- prometheus.MustNewConstMetric(c.last, prometheus.GaugeValue, 0)
	names, out, seen := containerMetrics(), sink{to}, map[string]bool{nodeKey: true}
	for _, p := range m.pods {
		ps := c.of.pod(p, seen)
		labels := []string{"", p.id, "", "", ps.PodRef.Namespace, ps.PodRef.Name}
		names.put(out, ps.CPU, ps.Memory, ps.Swap, labels)
		for i, one := range ps.Containers {
			id := p.containers[i].GetAttributes().GetId()
			labels := []string{one.Name, id, p.containers[i].image, id, ps.PodRef.Namespace, ps.PodRef.Name}
			names.put(out, one.CPU, one.Memory, one.Swap, labels)
			to <- prometheus.MustNewConstMetric(names.start, prometheus.GaugeValue, float64(one.StartTime.UnixNano())/float64(time.Second), labels...)
			if one.Rootfs != nil {
				out.bytes(names.fs, one.Rootfs.Time, one.Rootfs.UsedBytes, labels...)
			}
		}
		network(out, p.id, &ps)
	}
	c.of.forget(seen)
}

// put gives out what is known.
func (n *named) put(out sink, cpu *stats.CPUStats, memory *stats.MemoryStats, swap *stats.SwapStats, labels []string) {
	out.cpu(n.cpu, cpu, append([]string{"total"}, labels...)...)
	if memory != nil {
		out.memory(n.working, memory, labels...)
		out.bytes(n.usage, memory.Time, memory.UsageBytes, labels...)
		out.bytes(n.rss, memory.Time, memory.RSSBytes, labels...)
		out.count(n.minor, memory.Time, memory.PageFaults, labels...)
		out.count(n.major, memory.Time, memory.MajorPageFaults, labels...)
	}
	out.swap(n.swap, swap, labels...)
}

// network gives out what went over a pod's interfaces.
func network(out sink, id string, p *stats.PodStats) {
	if p.Network == nil {
		return
	}
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("container_network_"+name+"_total", help, networkLabels, nil)
	}
	rx, tx := desc("receive_bytes", "Bytes that were received."), desc("transmit_bytes", "Bytes that were sent.")
	rxErrors, txErrors := desc("receive_errors", "Errors while receiving."), desc("transmit_errors", "Errors while sending.")
	for _, i := range p.Network.Interfaces {
		labels := []string{id, i.Name, p.PodRef.Namespace, p.PodRef.Name}
		out.count(rx, p.Network.Time, i.RxBytes, labels...)
		out.count(tx, p.Network.Time, i.TxBytes, labels...)
		out.count(rxErrors, p.Network.Time, i.RxErrors, labels...)
		out.count(txErrors, p.Network.Time, i.TxErrors, labels...)
	}
}
