package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/server/listen"
)

// overHTTP passes gRPC requests on that come over an HTTP/2 connection of the HTTP server: those of clients that speak
// HTTP/1 too. See package listen.
type overHTTP struct {
	grpc  *grpc.Server
	other http.Handler

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // gRPC requests; added to under mu while not closed
}

// stateKey is the key of a connection's TLS state that net/http does not know of.
type stateKey struct{}

// connContext keeps a connection's TLS state for ServeHTTP.
func connContext(ctx context.Context, c net.Conn) context.Context {
	if s := listen.State(c); s != nil {
		return context.WithValue(ctx, stateKey{}, s)
	}
	return ctx
}

// ServeHTTP implements http.Handler.
func (o *overHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s, ok := r.Context().Value(stateKey{}).(*tls.ConnectionState); ok {
		r.TLS = s
	}
	if r.ProtoMajor != 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		o.other.ServeHTTP(w, r)
		return
	}
	o.mu.Lock()
	closed := o.closed
	if !closed {
		o.running.Add(1)
	}
	o.mu.Unlock()
	if closed {
		http.Error(w, "the member is stopping", http.StatusServiceUnavailable)
		return
	}
	defer o.running.Done()
	o.grpc.ServeHTTP(w, r)
}

// drain refuses gRPC requests from now on. It says whether those under way ended before ctx.
func (o *overHTTP) drain(ctx context.Context) bool {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	done := make(chan struct{})
	go func() {
		o.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
