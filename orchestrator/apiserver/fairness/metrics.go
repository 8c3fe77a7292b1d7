package fairness

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have kube-apiserver's names.
type metrics struct {
	rejected   *prometheus.CounterVec // level, schema, reason
	dispatched *prometheus.CounterVec // level, schema
	executing  *prometheus.GaugeVec
	seats      *prometheus.GaugeVec
	queued     *prometheus.GaugeVec
	queuedSeat *prometheus.GaugeVec
	waited     *prometheus.HistogramVec // level, schema, execute
	execution  *prometheus.HistogramVec // level, schema, type
	levels     map[string]*prometheus.GaugeVec
	fraction   prometheus.Gauge
}

// meters are those of one schema.
type meters struct {
	dispatched                            prometheus.Counter
	executing, seats, queued, queuedSeats prometheus.Gauge
	waited, waitedInVain, execution       prometheus.Observer
}

const prefix = "apiserver_flowcontrol_"

func newMetrics() *metrics {
	labels := []string{"priority_level", "flow_schema"}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + name, Help: help}, labels)
	}
	seconds := func(name, help, label string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + name, Help: help, Buckets: []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30},
		}, append(labels[:2:2], label))
	}
	m := &metrics{
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "rejected_requests_total", Help: "Requests that were rejected.",
		}, append(labels[:2:2], "reason")),
		dispatched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "dispatched_requests_total", Help: "Requests that were let through.",
		}, labels),
		executing:  gauge("current_executing_requests", "Requests that are being served; of a watch, its beginning.", labels...),
		seats:      gauge("current_executing_seats", "Seats of requests that are being served.", labels...),
		queued:     gauge("current_inqueue_requests", "Requests that wait in queues.", labels...),
		queuedSeat: gauge("current_inqueue_seats", "Seats that requests in queues wait for.", labels...),
		waited:     seconds("request_wait_duration_seconds", "Time that requests waited in queues.", "execute"),
		execution:  seconds("request_execution_seconds", "Time that requests were served; of a watch, its beginning.", "type"),
		levels:     map[string]*prometheus.GaugeVec{},
		fraction: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: prefix + "seat_fair_frac", Help: "Part of its target that each level gets.",
		}),
	}
	for name, help := range map[string]string{
		"nominal_limit_seats": "Seats that a level has by its shares.", "lower_limit_seats": "Seats that a level does not lend.",
		"upper_limit_seats": "Seats that a level has with all it may borrow.", "current_limit_seats": "Seats that a level has now.",
		"demand_seats_high_watermark": "Most seats that a level could use in the last period.",
		"demand_seats_average":        "Average of seats that a level could use in the last period.",
		"demand_seats_stdev":          "Standard deviation of seats that a level could use in the last period.",
		"demand_seats_smoothed":       "Seats that a level could use, smoothed.", "target_seats": "Seats that a level is to get a part of.",
	} {
		m.levels[name] = gauge(name, help, "priority_level")
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	all := []prometheus.Collector{m.rejected, m.dispatched, m.executing, m.seats, m.queued, m.queuedSeat, m.waited, m.execution, m.fraction}
	for _, g := range m.levels {
		all = append(all, g)
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("fairness: metrics: %w", err)
		}
	}
	return nil
}

// of returns the meters of a schema.
func (m *metrics) of(level, schema string) *meters {
	return &meters{
		dispatched: m.dispatched.WithLabelValues(level, schema), executing: m.executing.WithLabelValues(level, schema),
		seats: m.seats.WithLabelValues(level, schema), queued: m.queued.WithLabelValues(level, schema),
		queuedSeats: m.queuedSeat.WithLabelValues(level, schema), waited: m.waited.WithLabelValues(level, schema, "true"),
		waitedInVain: m.waited.WithLabelValues(level, schema, "false"), execution: m.execution.WithLabelValues(level, schema, "regular"),
	}
}

func (m *metrics) set(level, name string, value float64) {
	m.levels[name].WithLabelValues(level).Set(value)
}

func (m *metrics) bounds(level string, s share) {
	m.set(level, "nominal_limit_seats", float64(s.nominal))
	m.set(level, "lower_limit_seats", float64(s.lower))
	m.set(level, "upper_limit_seats", float64(s.upper))
}

func (m *metrics) demand(level string, w wanted) {
	m.set(level, "demand_seats_high_watermark", float64(w.highest))
	m.set(level, "demand_seats_average", w.average)
	m.set(level, "demand_seats_stdev", w.deviation)
	m.set(level, "demand_seats_smoothed", w.smoothed)
}

func (m *metrics) limit(level string, seats int, target float64) {
	m.set(level, "current_limit_seats", float64(seats))
	m.set(level, "target_seats", target)
}

func (m *metrics) forget(level string) {
	for _, g := range m.levels {
		g.DeleteLabelValues(level)
	}
}
