package server

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/grpc"
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

// ServeHTTP implements http.Handler.
func (o *overHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
