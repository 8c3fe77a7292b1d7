package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/raftnode/transport"
	"github.com/keelson-io/keelson/server/accesslog"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/httpapi/gateway"
	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/logging"
	"github.com/keelson-io/keelson/server/tlsconfig"
)

const (
	// headerTimeout is how long a request's header may take.
	headerTimeout = 5 * time.Second
	// drainTimeout is how long calls under way may take when the member stops. Watches never end by themselves.
	drainTimeout = 500 * time.Millisecond
)

// door is a listener and what comes in at it.
type door struct {
	net.Listener
	where  string // network and address, as given
	serves listen.Config
}

// doors are the listeners of a member and the servers behind them.
type doors struct {
	peers, clients, metrics []*door

	lg        *zap.Logger
	security  *security
	splitters []*listen.Splitter
	servers   []*http.Server
	gateway   *gateway.Gateway // nil: none
	access    *accesslog.Log   // nil: none
	streams   uint32           // largest number of streams on one connection
	slots     chan struct{}    // of connections of clients

	mu       sync.Mutex
	drained  bool // nothing is served any more
	overHTTP *listen.OverHTTP
}

// gatewayBytes is how long a JSON value may be: a request whose bytes are written as base64.
func gatewayBytes(cfg *config.Config) int64 {
	return int64(base64.StdEncoding.EncodedLen(int(cfg.Limits.MaxRequestBytes))) + grpcOverhead
}

// openDoors takes all addresses, and only then reads or makes certificates.
func openDoors(cfg *config.Config, lg *zap.Logger) (_ *doors, err error) {
	d := &doors{lg: lg, streams: cfg.Limits.MaxConcurrentStreams}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if cfg.Features.EnableGateway {
		if d.gateway, err = gateway.New(gatewayBytes(cfg)); err != nil {
			return nil, err
		}
	}
	if cfg.Log.Access != "" {
		out, err := logging.Open(cfg.Log, cfg.Log.Access)
		if err != nil {
			return nil, fmt.Errorf("--access-log: %w", err)
		}
		d.access = accesslog.New(accesslog.Config{Output: out, Sample: cfg.Log.AccessSample, Logger: lg.Named("access-log")})
	}
	l, o := &cfg.Listen, listen.Options{ReusePort: cfg.Listen.ReusePort, ReuseAddress: cfg.Listen.ReuseAddress}
	split := len(l.ClientHTTPURLs) > 0
	slots, err := clientSlots()
	if err != nil {
		return nil, err
	}
	for _, want := range []struct {
		urls   []string
		to     *[]*door
		serves listen.Config
	}{
		{l.PeerURLs, &d.peers, listen.Config{HTTP: true}},
		{l.ClientURLs, &d.clients, listen.Config{GRPC: true, HTTP: !split, Slots: slots}},
		{l.ClientHTTPURLs, &d.clients, listen.Config{HTTP: true, Slots: slots}},
		{l.MetricsURLs, &d.metrics, listen.Config{HTTP: true}},
	} {
		for _, url := range want.urls {
			if err := open(want.to, url, want.serves, o); err != nil {
				return nil, err
			}
		}
	}
	d.slots = slots
	d.security, err = newSecurity(cfg, clock.Real, lg)
	return d, err
}

// connections is how many clients have open, and how many they may have. Each door holds one that has not come yet.
func (d *doors) connections() (open, limit int) {
	return max(0, len(d.slots)-len(d.clients)), cap(d.slots)
}

// reservedFiles is how many file descriptors are kept from clients, for the member's files and for other members.
const reservedFiles = 150

// clientSlots bounds the connections of clients by the limit of open files.
func clientSlots() (chan struct{}, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("limit of open files: %w", err)
	}
	if limit.Cur <= reservedFiles {
		return nil, fmt.Errorf("the limit of open files is %d: it must be more than %d", limit.Cur, reservedFiles)
	}
	return make(chan struct{}, min(limit.Cur-reservedFiles, math.MaxInt32)), nil
}

// open adds a door, or what a URL says to the door that has its address already: a port may have plain connections and TLS.
func open(doors *[]*door, url string, serves listen.Config, o listen.Options) error {
	network, addr, secure, err := listen.Address(url)
	if err != nil {
		return err
	}
	where := network + " " + addr
	var at *door
	for _, d := range *doors {
		if d.where == where && d.serves.GRPC == serves.GRPC {
			at = d
		}
	}
	if at == nil {
		l, err := listen.Open(url, o)
		if err != nil {
			return err
		}
		at = &door{Listener: l, where: where, serves: serves}
		*doors = append(*doors, at)
	}
	if secure {
		at.serves.TLS = &listen.TLS{}
	} else {
		at.serves.Plain = true
	}
	return nil
}

// secure says how TLS connections at a door are to be handled. A certificate that is shown must fit the address that it
// comes from if that is asked for.
func (d *doors) secure(at *door, side *tlsconfig.Side, what string, addresses bool, protocols ...string) {
	if at.serves.TLS == nil {
		return
	}
	at.serves.TLS.Config = side.Server(protocols...)
	at.serves.TLS.Refused = d.refused("rejected connection on " + what + " endpoint")
	if addresses && side.ChecksAddresses() && at.Addr().Network() == "tcp" {
		at.serves.TLS.Check = checkAddress
	}
}

// serveHTTP serves HTTP at a listener, which may be the part of one that is shared with gRPC; see listen.Splitter.HTTP.
func (d *doors) serveHTTP(l net.Listener, shared bool, h http.Handler, fail func(error)) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ErrorLog: log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: int(min(d.streams, math.MaxInt32))},
	}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	if shared {
		srv.Protocols.SetUnencryptedHTTP2(true)
		srv.ConnContext = listen.ConnContext
	}
	d.servers = append(d.servers, srv)
	go func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			fail(fmt.Errorf("serving %s: %w", l.Addr(), err))
		}
	}()
}

// serveHTTPAt serves HTTP alone at a door.
func (d *doors) serveHTTPAt(at *door, h http.Handler, fail func(error)) {
	if at.serves.TLS == nil {
		d.serveHTTP(at.Listener, false, h, fail)
		return
	}
	d.serveHTTP(d.split(at).HTTP(), false, h, fail)
}

func (d *doors) split(at *door) *listen.Splitter {
	s := listen.Split(at.Listener, at.serves)
	d.splitters = append(d.splitters, s)
	go s.Run()
	return s
}

func (d *doors) servePeers(h http.Handler, fail func(error)) {
	for _, at := range d.peers {
		d.secure(at, d.security.peer, "peer", true, listen.HTTP1)
		d.serveHTTPAt(at, h, fail)
	}
}

func (d *doors) serveMetrics(h http.Handler, fail func(error)) {
	for _, at := range d.metrics {
		d.secure(at, d.security.client, "metrics", true, listen.HTTP2, listen.HTTP1)
		d.serveHTTPAt(at, h, fail)
	}
}

// serveClients serves gRPC, and HTTP on the same port unless it has ports of its own.
func (d *doors) serveClients(g *grpc.Server, h http.Handler, fail func(error)) {
	over := &listen.OverHTTP{GRPC: g, Other: h}
	d.mu.Lock()
	drained := d.drained
	d.overHTTP = over
	d.mu.Unlock()
	if drained {
		return // the member stops before it has begun
	}
	serve := func(l net.Listener) {
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			fail(fmt.Errorf("serving %s: %w", l.Addr(), err))
		}
	}
	if d.gateway != nil {
		go serve(d.gateway.Listener())
	}
	for _, at := range d.clients {
		d.secure(at, d.security.client, "client", false, listen.HTTP2, listen.HTTP1)
		d.logServing(at)
		switch {
		case !at.serves.GRPC:
			d.serveHTTP(d.split(at).HTTP(), false, h, fail)
		case !at.serves.HTTP:
			go serve(d.split(at).GRPC())
		default:
			s := d.split(at)
			go serve(s.GRPC())
			d.serveHTTP(s.HTTP(), true, over, fail)
		}
	}
}

// logServing says what a door lets in, in etcd's words.
func (d *doors) logServing(at *door) {
	traffic := "http"
	switch {
	case at.serves.GRPC && at.serves.HTTP:
		traffic = "grpc+http"
	case at.serves.GRPC:
		traffic = "grpc"
	}
	lg := d.lg.With(zap.String("traffic", traffic), zap.Stringer("address", at.Addr()))
	if at.serves.Plain {
		lg.Info("serving client traffic insecurely; this is strongly discouraged!")
	}
	if at.serves.TLS != nil {
		lg.Info("serving client traffic securely")
	}
}

// drainClients lets the calls under way end; streams are ended by force when ctx does, or after a moment.
func (d *doors) drainClients(ctx context.Context) {
	d.mu.Lock()
	d.drained = true
	over := d.overHTTP
	d.mu.Unlock()
	if over == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	over.Shutdown(ctx)
}

func (d *doors) close() {
	if d.access != nil {
		defer func() { _ = d.access.Close() }() // after those who add to it
	}
	if d.gateway != nil {
		_ = d.gateway.Close()
	}
	for _, s := range d.servers {
		_ = s.Close()
	}
	for _, s := range d.splitters {
		_ = s.Close()
	}
	for _, ls := range [][]*door{d.peers, d.clients, d.metrics} {
		for _, l := range ls {
			_ = l.Close()
		}
	}
}

// peerClient is for single requests to other members, which come from an address if one is given.
func peerClient(side *tlsconfig.Side, source net.Addr) *http.Client {
	return &http.Client{Transport: transport.NewRoundTripper(&http.Transport{
		ResponseHeaderTimeout: 10 * time.Second,
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       30 * time.Second,
	}, transport.DialFrom(source, 2*time.Second), side.Client)}
}
