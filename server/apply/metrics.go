package apply

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc"
)

// MetricsConfig says how to measure.
type MetricsConfig struct {
	Slow       time.Duration         // what takes longer is logged and counted; 0: nothing
	Registerer prometheus.Registerer // may be nil
	Clock      clock.Clock
	Logger     *zap.Logger
}

// Metrics are the durations of commands and reads, under etcd's names. All methods may be called from anywhere.
type Metrics struct {
	cfg      MetricsConfig
	commands [len(kinds) + 1]series
	requests [len(kinds) + 1]series
	ranges   series
	slow     prometheus.Counter
}

// series are the two series of a histogram that differ by success. They are made when they are first needed, and kept, so that
// observing costs no look-up.
type series struct {
	with func(success string) prometheus.Observer
	kept [2]atomic.Pointer[prometheus.Observer]
}

func (s *series) observe(success bool, took time.Duration) {
	i := 0
	if success {
		i = 1
	}
	o := s.kept[i].Load()
	if o == nil {
		made := s.with(strconv.FormatBool(success))
		o = &made
		s.kept[i].Store(o)
	}
	(*o).Observe(took.Seconds())
}

// NewMetrics makes Metrics.
func NewMetrics(cfg MetricsConfig) *Metrics {
	if cfg.Slow == 0 {
		cfg.Slow = math.MaxInt64
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	histogram := func(name, help string, first float64, n int, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "etcd", Subsystem: "server", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, n),
		}, labels)
	}
	commands := histogram("apply_duration_seconds", "The latency distributions of v2 apply called by backend.", 0.0001, 20, "version", "op", "success")
	requests := histogram("request_duration_seconds", "Response latency distribution in seconds for each type.", 0.001, 14, "type", "success")
	ranges := histogram("range_duration_seconds", "The latency distributions of txn.Range", 0.0001, 20, "success")
	m := &Metrics{cfg: cfg, slow: prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "server", Name: "slow_apply_total",
		Help: "The total number of slow apply requests (likely overloaded from slow disk).",
	})}
	m.ranges.with = func(success string) prometheus.Observer { return ranges.WithLabelValues(success) }
	for k := range m.commands {
		name := Kind(k).Name()
		m.commands[k].with = func(success string) prometheus.Observer { return commands.WithLabelValues("v3", name, success) }
		m.requests[k].with = func(success string) prometheus.Observer { return requests.WithLabelValues(name, success) }
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(commands, requests, ranges, m.slow)
	}
	return m
}

// Now is when something that is measured begins.
func (m *Metrics) Now() time.Time { return m.cfg.Clock.Now() }

// Requested notes a request of a client, from start until now, and returns how long it took.
func (m *Metrics) Requested(k Kind, start time.Time, err error) time.Duration {
	took := m.cfg.Clock.Now().Sub(start)
	m.requests[k].observe(err == nil, took)
	return took
}

// Range is the function Range, measured.
func (m *Metrics) Range(rd mvcc.Reader, r *pb.RangeRequest) (*RangeReply, error) {
	start := m.cfg.Clock.Now()
	reply, err := Range(rd, r)
	m.ranges.observe(err == nil, m.cfg.Clock.Now().Sub(start))
	return reply, err
}

// RangeDone notes a range request that began at start. reply may be nil.
func (m *Metrics) RangeDone(start time.Time, r *pb.RangeRequest, reply *RangeReply, err error) {
	took := m.Requested(KindRange, start, err)
	if took <= m.cfg.Slow {
		return
	}
	answer := ""
	if reply != nil {
		size := 0
		for _, kv := range reply.KVs {
			size += len(kv)
		}
		answer = fmt.Sprintf("range_response_count:%d size:%d", len(reply.KVs), size)
	}
	m.warn(took, "read-only range ", r, answer, err)
}

// TxnDone notes a transaction that only read and began at start.
func (m *Metrics) TxnDone(start time.Time, r *pb.TxnRequest, resp *pb.TxnResponse, err error) {
	took := m.Requested(KindReadOnlyTxn, start, err)
	if took <= m.cfg.Slow {
		return
	}
	answer := ""
	if resp != nil {
		answer = "responses:<"
		for i, op := range resp.Responses {
			if i > 0 {
				answer += " "
			}
			answer += fmt.Sprintf("range_response_count:%d", len(op.GetResponseRange().GetKvs()))
		}
		answer += fmt.Sprintf("> size:%d", proto.Size(resp))
	}
	m.warn(took, "read-only txn ", pb.NewLoggableTxnRequest(r), answer, err)
}

// applied notes a command that was executed.
func (m *Metrics) applied(start time.Time, r *pb.InternalRaftRequest, res *Result) {
	took := m.cfg.Clock.Now().Sub(start)
	m.commands[KindOf(r)].observe(res.Err == nil || errors.Is(res.Err, mvcc.ErrCompacted), took)
	if took <= m.cfg.Slow {
		return
	}
	answer := ""
	if res.Resp != nil {
		answer = fmt.Sprintf("size:%d", proto.Size(res.Resp))
	}
	m.warn(took, "", loggable(r), answer, res.Err)
}

// loggable is a command without what is secret: values, passwords, and what a token is made of.
func loggable(r *pb.InternalRaftRequest) fmt.Stringer {
	if a := r.Authenticate; a != nil {
		r = &pb.InternalRaftRequest{Header: r.Header, Authenticate: &pb.InternalAuthenticateRequest{Name: a.Name}}
	}
	return &pb.InternalRaftStringer{Request: r}
}

func (m *Metrics) warn(took time.Duration, prefix string, request fmt.Stringer, answer string, err error) {
	m.slow.Inc()
	m.cfg.Logger.Warn("apply request took too long", zap.Duration("took", took), zap.Duration("expected-duration", m.cfg.Slow),
		zap.String("prefix", prefix), zap.String("request", request.String()), zap.String("response", answer), zap.Error(err))
}
