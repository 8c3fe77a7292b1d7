package listen

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/grpc"
)

// OverHTTP passes gRPC requests on that come over an HTTP/2 connection of the HTTP server: those of clients that speak
// HTTP/1 too. See the package comment.
type OverHTTP struct {
	GRPC  *grpc.Server
	Other http.Handler

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // gRPC requests; added to under mu while not closed
}

// stateKey is the key of a connection's TLS state that net/http does not know of.
type stateKey struct{}

// ConnContext keeps a connection's TLS state for ServeHTTP: it is to be that of the http.Server that OverHTTP is the handler of.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if s := State(c); s != nil {
		return context.WithValue(ctx, stateKey{}, s)
	}
	return ctx
}

// ServeHTTP implements http.Handler.
func (o *OverHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s, ok := r.Context().Value(stateKey{}).(*tls.ConnectionState); ok {
		r.TLS = s
	}
	if r.ProtoMajor != 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		o.Other.ServeHTTP(w, r)
		return
	}
	o.mu.Lock()
	closed := o.closed
	if !closed {
		o.running.Add(1)
	}
	o.mu.Unlock()
	if closed {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	defer o.running.Done()
	o.GRPC.ServeHTTP(w, r)
}

// Shutdown lets the gRPC calls under way end, and stops the gRPC server; streams, and what goes on after ctx, end by force.
func (o *OverHTTP) Shutdown(ctx context.Context) {
	if !o.drain(ctx) {
		o.GRPC.Stop() // gRPC cannot wait for calls that come over HTTP
		return
	}
	done := make(chan struct{})
	go func() {
		o.GRPC.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	o.GRPC.Stop()
	<-done
}

// drain refuses gRPC requests over HTTP from now on. It says whether those under way ended before ctx.
func (o *OverHTTP) drain(ctx context.Context) bool {
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
