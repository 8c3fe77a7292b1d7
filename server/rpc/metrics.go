package rpc

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/mvcc/watch"
)

// Metrics are what passes between the services and their clients, under etcd's names.
type Metrics struct {
	sent, received            prometheus.Counter // bytes of messages
	failures                  *prometheus.CounterVec
	events, perEvent          prometheus.Histogram // of responses of watches
	control, progressReported prometheus.Histogram
}

// NewMetrics makes Metrics and registers them, if r is not nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	bytes := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "etcd", Subsystem: "network", Name: name, Help: help})
	}
	sending := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "etcd_debugging", Subsystem: "server", Name: "watch_send_loop_" + name + "_seconds", Help: help,
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		})
	}
	m := &Metrics{
		sent:     bytes("client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients."),
		received: bytes("client_grpc_received_bytes_total", "The total number of bytes received from grpc clients."),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "etcd", Subsystem: "network", Name: "server_stream_failures_total",
			Help: "The total number of stream failures from the local server.",
		}, []string{"Type", "API"}),
		events: sending("watch_stream_duration",
			"The total duration in seconds of running through the send loop watch stream response all events."),
		perEvent: sending("watch_stream_duration_per_event",
			"The average duration in seconds of running through the send loop watch stream response, per event."),
		control: sending("control_stream_duration",
			"The total duration in seconds of running through the send loop control stream response."),
		progressReported: sending("progress_duration",
			"The total duration in seconds of running through the progress loop control stream response."),
	}
	if r != nil {
		r.MustRegister(m.sent, m.received, m.failures, m.events, m.perEvent, m.control, m.progressReported)
	}
	return m
}

// failed counts the end of a stream by an error that is not the client's leaving. verb is "send" or "receive".
func (m *Metrics) failed(call context.Context, verb, api string, err error) {
	if err == nil || call.Err() != nil {
		return
	}
	if c := status.Code(err); c == codes.Canceled || c == codes.DeadlineExceeded {
		return
	}
	m.failures.WithLabelValues(verb, api).Inc()
}

// watched notes the sending of a response of a watch.
func (m *Metrics) watched(r *watch.Response, took time.Duration) {
	seconds := took.Seconds()
	switch n := len(r.Events); {
	case n > 0:
		m.events.Observe(seconds)
		m.perEvent.Observe(seconds / float64(n))
	case r.Created || r.Canceled:
		m.control.Observe(seconds)
	default:
		m.progressReported.Observe(seconds)
	}
}
