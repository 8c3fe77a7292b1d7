package workers

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metrics are what dashboards for nodes know, by the names of the kubelet.
type metrics struct {
	syncs           *prometheus.HistogramVec
	starts, totals  prometheus.Histogram
	relists         prometheus.Histogram
	pulls           *prometheus.HistogramVec
	podsStarted     prometheus.Counter
	podErrors       prometheus.Counter
	containers      *prometheus.CounterVec
	containerErrors *prometheus.CounterVec
	orphans         prometheus.Counter
}

func newMetrics() *metrics {
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	lasting := []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	return &metrics{
		syncs:       prometheus.NewHistogramVec(histogram("kubelet_pod_worker_duration_seconds", "Time of one sync of a pod.", prometheus.DefBuckets), []string{"operation_type"}),
		starts:      prometheus.NewHistogram(histogram("kubelet_pod_start_duration_seconds", "Time from when the node sees a pod to when it runs.", lasting)),
		totals:      prometheus.NewHistogram(histogram("kubelet_pod_start_total_duration_seconds", "Time from when a pod is made to when it runs.", lasting)),
		relists:     prometheus.NewHistogram(histogram("kubelet_pleg_relist_duration_seconds", "Time of listing all that the runtime has.", prometheus.DefBuckets)),
		pulls:       prometheus.NewHistogramVec(histogram("kubelet_image_pull_duration_seconds", "Time of pulls of images that succeeded, by their size.", lasting), []string{"image_size_in_bytes"}),
		podsStarted: counter("kubelet_started_pods_total", "Sandboxes of pods that were started."),
		podErrors:   counter("kubelet_started_pods_errors_total", "Sandboxes of pods that could not be started."),
		containers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_started_containers_total", Help: "Starts of containers that were tried.",
		}, []string{"container_type"}),
		containerErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_started_containers_errors_total", Help: "Containers that could not be started, by reason.",
		}, []string{"container_type", "code"}),
		orphans: counter("kubelet_orphaned_runtime_pods_total", "Pods that nobody knew and that something was left of."),
	}
}

// Metrics are counts and durations of what is done for pods, and what runs at the moment.
func (ws *Workers) Metrics() []prometheus.Collector {
	m := ws.metrics
	return []prometheus.Collector{m.syncs, m.starts, m.totals, m.relists, m.pulls, m.podsStarted, m.podErrors, m.containers, m.containerErrors, m.orphans, census{ws}}
}

// containerStarted counts an attempt to start a container; f is why it failed, nil: it did not. While a pull that failed is
// not tried again, nothing is attempted.
func (m *metrics) containerStarted(p *corev1.Pod, name string, f *failure) {
	of := containerType(p, name)
	m.containers.WithLabelValues(of).Inc()
	if f != nil {
		m.containerErrors.WithLabelValues(of, f.reason).Inc()
	}
}

func containerType(p *corev1.Pod, name string) string {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return "init_container"
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return "ephemeral_container"
		}
	}
	return "container"
}

// sizeClass is the size of an image as pulls are told apart by it.
func sizeClass(bytes uint64) string {
	const mb, gb = 1 << 20, 1 << 30
	for _, c := range []struct {
		below uint64
		name  string
	}{{10 * mb, "0-10MB"}, {100 * mb, "10MB-100MB"}, {500 * mb, "100MB-500MB"}, {gb, "500MB-1GB"}, {10 * gb, "1GB-10GB"}, {50 * gb, "10GB-50GB"}, {100 * gb, "50GB-100GB"}} {
		if bytes < c.below {
			return c.name
		}
	}
	return "GT100GB"
}

// timing is what durations are measured from.
type timing struct {
	born   time.Time   // when the node first saw the pod
	synced *corev1.Pod // by the last sync
}

// measure takes the time of a sync that began at a moment.
func (w *worker) measure(begun time.Time) {
	p, kind := w.pod(), "sync"
	switch {
	case w.halt.told:
		kind = "kill"
	case w.timed.synced == nil:
		kind = "create"
	case w.timed.synced != p:
		kind = "update"
	}
	w.timed.synced = p
	w.ws.metrics.syncs.WithLabelValues(kind).Observe(w.ws.cfg.Clock.Now().Sub(begun).Seconds())
}

// measureStart takes the time of the start of a pod, once: when it begins to run.
func (w *worker) measureStart(p *corev1.Pod, last, now *corev1.PodStatus) {
	if now.Phase != corev1.PodRunning || last.Phase == corev1.PodRunning {
		return
	}
	at := w.ws.cfg.Clock.Now()
	w.ws.metrics.starts.Observe(at.Sub(w.timed.born).Seconds())
	if !p.CreationTimestamp.IsZero() {
		w.ws.metrics.totals.Observe(max(at.Sub(p.CreationTimestamp.Time).Seconds(), 0))
	}
}

// census counts the pods and containers of a node when it is asked.
type census struct{ ws *Workers }

var (
	runningPods       = prometheus.NewDesc("kubelet_running_pods", "Pods that have a sandbox that runs.", nil, nil)
	runningContainers = prometheus.NewDesc("kubelet_running_containers", "Containers of the node by what they do.", []string{"container_state"}, nil)
	desiredPods       = prometheus.NewDesc("kubelet_desired_pods", "Pods that the node is to run.", []string{"static"}, nil)
	activePods        = prometheus.NewDesc("kubelet_active_pods", "Pods that the node runs or is about to, and that take resources of it.", []string{"static"}, nil)
	mirrorPods        = prometheus.NewDesc("kubelet_mirror_pods", "Pods on the API server that stand for static pods.", nil, nil)
)

// Describe implements prometheus.Collector.
func (census) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{runningPods, runningContainers, desiredPods, activePods, mirrorPods} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c census) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	running, states := 0, map[string]int{"running": 0, "exited": 0, "created": 0, "unknown": 0}
	desired, active := map[bool]int{}, map[bool]int{}
	for _, w := range c.ws.all() {
		w.mu.Lock()
		static := isStatic(w.spec.pod)
		if seen := w.memory.seen; seen != nil {
			if seen.sandbox() != nil {
				running++
			}
			seen.each(func(c *container) { states[stateName(c.state)]++ })
		}
		if !w.spec.removed {
			desired[static]++
			if !terminal(w.base().Status.Phase) && w.memory.verdict == nil {
				active[static]++
			}
		}
		w.mu.Unlock()
	}
	gauge(runningPods, running)
	for state, n := range states {
		gauge(runningContainers, n, state)
	}
	for _, static := range []bool{false, true} {
		label := ""
		if static {
			label = "true"
		}
		gauge(desiredPods, desired[static], label)
		gauge(activePods, active[static], label)
	}
	gauge(mirrorPods, len(c.ws.mirrors.all()))
}

func stateName(s runtimeapi.ContainerState) string {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return "running"
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return "exited"
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return "created"
	}
	return "unknown"
}
