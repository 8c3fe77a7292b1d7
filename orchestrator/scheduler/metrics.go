package scheduler

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keelson-io/keelson/orchestrator/scheduler/core"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/queue"
)

// metrics have kube-scheduler's names.
type metrics struct {
	attempts   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	algorithm  prometheus.Histogram
	points     *prometheus.HistogramVec
	events     *prometheus.HistogramVec
	pending    *prometheus.GaugeVec
	incoming   *prometheus.CounterVec
	cacheSize  *prometheus.GaugeVec
	goroutines *prometheus.GaugeVec
	podTries   prometheus.Histogram
	sli        *prometheus.HistogramVec
	victims    prometheus.Histogram
	preempts   prometheus.Counter
	permitWait *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "scheduler", Name: name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: "scheduler", Name: name, Help: help}, labels)
		r.MustRegister(g)
		return g
	}
	histogram := func(name, help string, from, factor float64, n int, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: "scheduler", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(from, factor, n),
		}, labels)
		r.MustRegister(h)
		return h
	}
	single := func(name, help string, from, factor float64, n int) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Subsystem: "scheduler", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(from, factor, n),
		})
		r.MustRegister(h)
		return h
	}
	m := &metrics{
		attempts:   counter("schedule_attempts_total", "Attempts to schedule pods, by result.", "result", "profile"),
		duration:   histogram("scheduling_attempt_duration_seconds", "Time of an attempt including the binding.", 0.001, 2, 15, "result", "profile"),
		algorithm:  single("scheduling_algorithm_duration_seconds", "Time of a decision.", 0.001, 2, 15),
		points:     histogram("framework_extension_point_duration_seconds", "Time of all plugins of an extension point.", 0.0001, 2, 12, "extension_point", "status", "profile"),
		events:     histogram("event_handling_duration_seconds", "Time of handling an event.", 0.0001, 2, 12, "event"),
		pending:    gauge("pending_pods", "Pods that wait, by queue.", "queue"),
		incoming:   counter("queue_incoming_pods_total", "Pods that entered a queue, by event.", "queue", "event"),
		cacheSize:  gauge("cache_size", "Nodes, pods and assumed pods in the cache.", "type"),
		goroutines: gauge("goroutines", "Goroutines by what they do.", "operation"),
		podTries:   single("pod_scheduling_attempts", "Attempts that it took to schedule a pod.", 1, 2, 5),
		sli:        histogram("pod_scheduling_sli_duration_seconds", "Time from a pod's first attempt until it is bound.", 0.01, 2, 20, "attempts"),
		victims:    single("preemption_victims", "Victims of a preemption.", 1, 2, 7),
		preempts:   prometheus.NewCounter(prometheus.CounterOpts{Subsystem: "scheduler", Name: "preemption_attempts_total", Help: "Attempts to preempt."}),
		permitWait: histogram("permit_wait_duration_seconds", "Time that pods wait for permission.", 0.001, 2, 15, "result"),
	}
	r.MustRegister(m.preempts)
	return m
}

func (m *metrics) moved(to queue.Place, event string) {
	m.incoming.WithLabelValues(to.String(), event).Inc()
}

func (m *metrics) extensionPoint(profile, point string, c framework.Code, d time.Duration) {
	m.points.WithLabelValues(point, c.String(), profile).Observe(d.Seconds())
	if point == "PostFilter" {
		m.preempts.Inc()
	}
}

func (m *metrics) scheduled(t *try, now time.Time) {
	m.attempts.WithLabelValues("scheduled", t.profile.Name).Inc()
	m.duration.WithLabelValues("scheduled", t.profile.Name).Observe(now.Sub(t.began).Seconds())
	m.podTries.Observe(float64(t.pod.Attempts))
	label := "15+"
	if t.pod.Attempts < 15 {
		label = strconv.Itoa(t.pod.Attempts)
	}
	m.sli.WithLabelValues(label).Observe(now.Sub(t.pod.FirstTried).Seconds())
}

func (m *metrics) failed(t *try, f *core.Failure, now time.Time) {
	result := "error"
	if f.Rejected() {
		result = "unschedulable"
	}
	m.attempts.WithLabelValues(result, t.profile.Name).Inc()
	m.duration.WithLabelValues(result, t.profile.Name).Observe(now.Sub(t.began).Seconds())
}

// measure sets the gauges.
func (s *Scheduler) measure() {
	c := s.model.queue.Counts()
	for name, n := range map[string]int{"active": c.Active, "backoff": c.Backoff, "unschedulable": c.Unschedulable, "gated": c.Gated} {
		s.metrics.pending.WithLabelValues(name).Set(float64(n))
	}
	nodes, pods, assumed := s.model.cache.Sizes()
	for name, n := range map[string]int{"nodes": nodes, "pods": pods, "assumed_pods": assumed} {
		s.metrics.cacheSize.WithLabelValues(name).Set(float64(n))
	}
}
