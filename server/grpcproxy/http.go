package grpcproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/dial"
	"github.com/keelson-io/keelson/server/httpapi"
	"github.com/keelson-io/keelson/server/listen"
)

// How long the checks of health may take, and the metrics of a member.
const (
	readTimeout    = time.Second
	watchTimeout   = 3 * time.Second
	metricsTimeout = 10 * time.Second
)

// healthKey is what the checks read; it need not exist.
const healthKey = "a"

// pages are what is served over HTTP.
type pages struct {
	kv        KV
	self      *grpc.ClientConn // to this proxy; nil: clients have no address of it
	endpoints func() []string
	secure    func(endpoint string) bool
	tls       func() *tls.Config // towards members; may be nil
	checks    *httpapi.Checks
	reg       *prometheus.Registry
}

func newPages(p *Proxy, kv KV) *pages {
	return &pages{
		kv: kv, self: p.self, endpoints: p.conn.Endpoints, secure: p.conn.Secure, tls: p.memberTLS, reg: p.reg,
		checks: httpapi.NewHealth(httpapi.Health{Registerer: p.reg, Logger: p.lg}),
	}
}

// handler serves monitoring, and runtime profiles if these are wanted.
func (p *pages) handler(profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", p.memberMetrics)
	mux.HandleFunc("/health", p.checks.Simple(p.unhealthy))
	mux.HandleFunc("/proxy/health", p.checks.Simple(p.proxyUnhealthy))
	mux.Handle("/proxy/metrics", promhttp.InstrumentMetricHandler(p.reg, promhttp.HandlerFor(p.reg, promhttp.HandlerOpts{})))
	if profiles {
		httpapi.Pprof(mux)
	}
	return mux
}

// unhealthy says why the members cannot be read.
func (p *pages) unhealthy(ctx context.Context) (reason string) {
	return readable(ctx, p.kv)
}

func readable(ctx context.Context, kv interface {
	Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)
}) (reason string) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(healthKey)})
	if s := status.Convert(err); err == nil || s.Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied) {
		return ""
	}
	return "GET ERROR:" + status.Convert(err).Message()
}

// proxyUnhealthy says why a client of the proxy cannot read or watch.
func (p *pages) proxyUnhealthy(ctx context.Context) (reason string) {
	if p.self == nil {
		return "no connection to proxy"
	}
	if reason := readable(ctx, remoteKV{client: pb.NewKVClient(p.self)}); reason != "" {
		return reason
	}
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	s, err := pb.NewWatchClient(p.self).Watch(ctx)
	if err == nil {
		err = s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(healthKey)}}})
	}
	if err == nil {
		_, err = s.Recv()
	}
	switch {
	case ctx.Err() != nil:
		return "WATCH TIMEOUT"
	case err != nil:
		return "WATCH ERROR:" + status.Convert(err).Message()
	}
	return ""
}

// memberMetrics passes on the metrics of a member: any one that answers.
func (p *pages) memberMetrics(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), metricsTimeout)
	defer cancel()
	endpoints := p.endpoints()
	for _, i := range rand.Perm(len(endpoints)) {
		body, err := p.scrape(ctx, endpoints[i])
		if err != nil {
			continue
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(body)
		return
	}
	http.Error(w, "Internal server error", http.StatusInternalServerError)
}

// scrape gets the metrics of one member.
func (p *pages) scrape(ctx context.Context, ep string) ([]byte, error) {
	secure := p.secure(ep)
	e := dial.Parse(ep, secure)
	dialer := &net.Dialer{}
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, e.Network, e.Addr)
	}}
	if p.tls != nil {
		tr.TLSClientConfig = p.tls()
	}
	url := "http://"
	if secure {
		url = "https://"
	}
	if e.Network == "unix" {
		url += "localhost/metrics"
	} else {
		url += e.Addr + "/metrics"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// headerTimeout is how long a request's header may take.
const headerTimeout = 5 * time.Second

// httpServer is one for a part of a listener that is shared with gRPC, or for a listener of its own.
func (o *Options) httpServer(h http.Handler, shared bool) *http.Server {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ErrorLog: discard,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: int(min(o.Clients.MaxStreams, 1<<31-1))}, Protocols: new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	if shared {
		s.Protocols.SetUnencryptedHTTP2(true)
		s.ConnContext = listen.ConnContext
	}
	return s
}

// logCalls logs every call, without what is in it.
func logCalls(lg *zap.Logger) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	say := func(method string, began time.Time, err error) {
		lg.Info("call", zap.String("method", method), zap.Duration("took", time.Since(began)), zap.Stringer("code", status.Code(err)))
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		began := time.Now()
		resp, err := handler(ctx, req)
		say(info.FullMethod, began, err)
		return resp, err
	}
	stream := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		began := time.Now()
		err := handler(srv, ss)
		say(info.FullMethod, began, err)
		return err
	}
	return unary, stream
}

// ended says whether an error only says that a server was told to end.
func ended(err error) bool {
	return err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed)
}
