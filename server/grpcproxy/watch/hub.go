package watch

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/grpcproxy/namespace"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// Config is what a Hub needs.
type Config struct {
	Conn    grpc.ClientConnInterface // its messages are encoded by a relay.Codec
	Prefix  namespace.Prefix
	Queue   int // responses that may wait until a client reads them; 0: 4096
	Metrics *Metrics
	Clock   clock.Clock
	Logger  *zap.Logger
}

// Metrics count what is shared.
type Metrics struct {
	watchers prometheus.Gauge
	events   prometheus.Counter
	feeds    prometheus.Gauge
	resumed  prometheus.Counter
	lagging  prometheus.Counter
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		watchers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcd_grpc_proxy_watchers_coalescing_total", Help: "Total number of current watchers coalescing"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_grpc_proxy_events_coalescing_total", Help: "Total number of events coalescing"}),
		feeds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keelson_grpc_proxy_watch_feeds", Help: "Watches that the proxy has at the members."}),
		resumed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keelson_grpc_proxy_watch_resumes_total", Help: "Watches at the members that went on after their stream broke."}),
		lagging: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keelson_grpc_proxy_slow_watchers_total", Help: "Times that a client's watch fell behind because the client did not read."}),
	}
	r.MustRegister(m.watchers, m.events, m.feeds, m.resumed, m.lagging)
	return m
}

// Hub is described in the package comment.
type Hub struct {
	cfg    Config
	client pb.WatchClient

	header atomic.Pointer[pb.ResponseHeader] // the one with the highest revision that was seen; not to be changed

	mu     sync.Mutex
	links  map[upstream.Caller]*link
	closed bool
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // of links
}

// New makes a Hub.
func New(cfg Config) *Hub {
	if cfg.Queue == 0 {
		cfg.Queue = maxQueued
	}
	h := &Hub{cfg: cfg, client: pb.NewWatchClient(cfg.Conn), links: map[upstream.Caller]*link{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// errClosing ends the streams of clients. They go on elsewhere.
var errClosing = status.Error(codes.Unavailable, "the proxy is stopping")

// Close ends all streams.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	for _, l := range h.links {
		l.fail(errClosing)
	}
	h.mu.Unlock()
	h.cancel()
	h.wg.Wait()
}

// join adds a client's stream to the link of its identity.
func (h *Hub) join(c upstream.Caller) (*stream, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errClosing
	}
	l := h.links[c]
	if l == nil {
		l = newLink(h, c)
		h.links[c] = l
	}
	return l.join(), nil
}

// leave takes a client's stream out, and ends the link when it was the last one.
func (h *Hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := s.link
	if l.leave(s) {
		return
	}
	l.cancel()
	if h.links[l.caller] == l {
		delete(h.links, l.caller)
	}
}

// drop lets new streams of an identity begin anew, because its link is of no use any more.
func (h *Hub) drop(l *link, err error) {
	h.mu.Lock()
	if h.links[l.caller] == l {
		delete(h.links, l.caller)
	}
	h.mu.Unlock()
	l.fail(err)
}

// Note tells the hub of a header of the members, which must not change any more: the one with the highest revision is that of
// responses that the hub makes by itself.
func (h *Hub) Note(header *pb.ResponseHeader) {
	for {
		old := h.header.Load()
		if header.GetRevision() <= old.GetRevision() || h.header.CompareAndSwap(old, header) {
			return
		}
	}
}

// newest is the newest header that is known.
func (h *Hub) newest() *pb.ResponseHeader {
	if header := h.header.Load(); header != nil {
		return header
	}
	return &pb.ResponseHeader{}
}
