package stats

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// measureTimeout bounds a measurement for metrics.
const measureTimeout = 10 * time.Second

// Resource are the metrics that kubectl top and autoscaling are made from, by kubelet's names.
func (s *Stats) Resource() prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(newResource(s)) // it is alone
	return r
}

// resource collects the metrics of Resource.
type resource struct {
	of *Stats

	nodeCPU, nodeMemory, nodeSwap                                     *prometheus.Desc
	podCPU, podMemory, podSwap                                        *prometheus.Desc
	containerCPU, containerMemory, containerSwap, containerStart, err *prometheus.Desc
}

func newResource(s *Stats) *resource {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	pod, container := []string{"namespace", "pod"}, []string{"container", "namespace", "pod"}
	return &resource{
		of:              s,
		nodeCPU:         desc("node_cpu_usage_seconds_total", "Processor time that the node has used, in core-seconds."),
		nodeMemory:      desc("node_memory_working_set_bytes", "Working set of the node, in bytes."),
		nodeSwap:        desc("node_swap_usage_bytes", "Swap that the node uses, in bytes."),
		podCPU:          desc("pod_cpu_usage_seconds_total", "Processor time that a pod has used, in core-seconds.", pod...),
		podMemory:       desc("pod_memory_working_set_bytes", "Working set of a pod, in bytes.", pod...),
		podSwap:         desc("pod_swap_usage_bytes", "Swap that a pod uses, in bytes.", pod...),
		containerCPU:    desc("container_cpu_usage_seconds_total", "Processor time that a container has used, in core-seconds.", container...),
		containerMemory: desc("container_memory_working_set_bytes", "Working set of a container, in bytes.", container...),
		containerSwap:   desc("container_swap_usage_bytes", "Swap that a container uses, in bytes.", container...),
		containerStart:  desc("container_start_time_seconds", "When a container was started, in seconds since 1970.", container...),
		err:             desc("resource_scrape_error", "1 if there was an error, 0 otherwise."),
	}
}

// Describe implements prometheus.Collector.
func (r *resource) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		r.nodeCPU, r.nodeMemory, r.nodeSwap, r.podCPU, r.podMemory, r.podSwap, r.containerCPU, r.containerMemory, r.containerSwap, r.containerStart, r.err,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (r *resource) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), measureTimeout)
	defer cancel()
	all, err := r.of.Summary(ctx, true)
	if err != nil {
		to <- prometheus.MustNewConstMetric(r.err, prometheus.GaugeValue, 1)
		return
	}
	to <- prometheus.MustNewConstMetric(r.err, prometheus.GaugeValue, 0)
	out := sink{to}
	out.cpu(r.nodeCPU, all.Node.CPU)
	out.memory(r.nodeMemory, all.Node.Memory)
	out.swap(r.nodeSwap, all.Node.Swap)
	for _, p := range all.Pods {
		out.cpu(r.podCPU, p.CPU, p.PodRef.Namespace, p.PodRef.Name)
		out.memory(r.podMemory, p.Memory, p.PodRef.Namespace, p.PodRef.Name)
		out.swap(r.podSwap, p.Swap, p.PodRef.Namespace, p.PodRef.Name)
		for _, c := range p.Containers {
			labels := []string{c.Name, p.PodRef.Namespace, p.PodRef.Name}
			out.cpu(r.containerCPU, c.CPU, labels...)
			out.memory(r.containerMemory, c.Memory, labels...)
			out.swap(r.containerSwap, c.Swap, labels...)
			to <- prometheus.MustNewConstMetric(r.containerStart, prometheus.GaugeValue, float64(c.StartTime.UnixNano())/float64(time.Second), labels...)
		}
	}
}

// sink takes metrics of what is known.
type sink struct{ to chan<- prometheus.Metric }

func (s sink) put(d *prometheus.Desc, t prometheus.ValueType, at metav1.Time, v float64, labels []string) {
	s.to <- prometheus.NewMetricWithTimestamp(at.Time, prometheus.MustNewConstMetric(d, t, v, labels...))
}

func (s sink) cpu(d *prometheus.Desc, c *stats.CPUStats, labels ...string) {
	if c != nil && c.UsageCoreNanoSeconds != nil {
		s.put(d, prometheus.CounterValue, c.Time, float64(*c.UsageCoreNanoSeconds)/float64(time.Second), labels)
	}
}

func (s sink) memory(d *prometheus.Desc, m *stats.MemoryStats, labels ...string) {
	if m != nil {
		s.bytes(d, m.Time, m.WorkingSetBytes, labels...)
	}
}

func (s sink) swap(d *prometheus.Desc, m *stats.SwapStats, labels ...string) {
	if m != nil {
		s.bytes(d, m.Time, m.SwapUsageBytes, labels...)
	}
}

func (s sink) bytes(d *prometheus.Desc, at metav1.Time, n *uint64, labels ...string) {
	if n != nil {
		s.put(d, prometheus.GaugeValue, at, float64(*n), labels)
	}
}

func (s sink) count(d *prometheus.Desc, at metav1.Time, n *uint64, labels ...string) {
	if n != nil {
		s.put(d, prometheus.CounterValue, at, float64(*n), labels)
	}
}
