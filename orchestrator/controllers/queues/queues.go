// Package queues makes work queues that count what goes through them, in the metrics that Kubernetes' programs have:
// workqueue_depth, workqueue_adds_total, workqueue_queue_duration_seconds and so on, with the queue's name as a label.
//
// # Concurrency
//
// All methods of a Queue may be called from any goroutine.
package queues

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"
)

// Queue is a work queue, and the metrics of it.
type Queue[T comparable] struct {
	workqueue.TypedRateLimitingInterface[T]
	prometheus.Collector
}

// New makes a queue. What failed comes back after the time that the limiter says.
func New[T comparable](name string, limiter workqueue.TypedRateLimiter[T]) *Queue[T] {
	m := newMetrics(name)
	return &Queue[T]{
		TypedRateLimitingInterface: workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[T]{Name: name, MetricsProvider: m}),
		Collector:                  m,
	}
}

// metrics are of one queue. They are client-go's provider of metrics for that queue alone.
type metrics struct {
	depth, unfinished, longest prometheus.Gauge
	adds, retries              prometheus.Counter
	waited, worked             prometheus.Histogram
}

func newMetrics(name string) *metrics {
	labels := prometheus.Labels{"name": name}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Subsystem: "workqueue", Name: name, Help: help, ConstLabels: labels})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: "workqueue", Name: name, Help: help, ConstLabels: labels})
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Subsystem: "workqueue", Name: name, Help: help, ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(10e-9, 10, 10),
		})
	}
	return &metrics{
		depth: gauge("depth", "Items that wait."), adds: counter("adds_total", "Items that were added."),
		retries:    counter("retries_total", "Items that were added again for later."),
		waited:     histogram("queue_duration_seconds", "How long items waited."),
		worked:     histogram("work_duration_seconds", "How long items were worked on."),
		unfinished: gauge("unfinished_work_seconds", "How long all items that are being worked on have been, together."),
		longest:    gauge("longest_running_processor_seconds", "How long the longest worker has been at its item."),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.depth, m.adds, m.retries, m.waited, m.worked, m.unfinished, m.longest}
}

// Describe is of prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(to)
	}
}

// Collect is of prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(to)
	}
}

// NewDepthMetric and the following are of workqueue.MetricsProvider.
func (m *metrics) NewDepthMetric(string) workqueue.GaugeMetric { return m.depth }

func (m *metrics) NewAddsMetric(string) workqueue.CounterMetric { return m.adds }

func (m *metrics) NewLatencyMetric(string) workqueue.HistogramMetric { return m.waited }

func (m *metrics) NewWorkDurationMetric(string) workqueue.HistogramMetric { return m.worked }

func (m *metrics) NewUnfinishedWorkSecondsMetric(string) workqueue.SettableGaugeMetric {
	return m.unfinished
}

func (m *metrics) NewLongestRunningProcessorSecondsMetric(string) workqueue.SettableGaugeMetric {
	return m.longest
}

func (m *metrics) NewRetriesMetric(string) workqueue.CounterMetric { return m.retries }
