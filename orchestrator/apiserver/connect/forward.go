package connect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/proxy"

	"github.com/keelson-io/keelson/internal/upgrade"
)

// secret says which headers are for the API server alone.
func secret(name string) bool {
	return name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-")
}

// Forward sends a request to a target, and answers with what comes back. A connection that is upgraded goes on until one side
// closes it.
func (c *Connector) Forward(w http.ResponseWriter, r *http.Request, to *Target) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(c.cfg.Ending, cancel)()
	r = r.Clone(ctx)
	for name := range r.Header {
		if secret(name) {
			r.Header.Del(name)
		}
	}
	hijacked := &hijacker{ResponseWriter: w}
	defer context.AfterFunc(ctx, hijacked.close)()
	via := to.via
	if httpstream.IsUpgradeRequest(r) {
		via = upgrade.Transport(via)
	}
	h := proxy.NewUpgradeAwareHandler(to.URL, via, to.rewritten, to.upgraded, &responder{c, to})
	h.UseLocationHost = true
	if to.upgraded {
		h.Location.RawQuery = to.URL.RawQuery
	}
	h.ServeHTTP(hijacked, r)
}

// responder answers with what goes wrong before there is an answer.
type responder struct {
	c  *Connector
	to *Target
}

func (e *responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status):
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		err = apierrors.NewServiceUnavailable("the connection was ended")
	case e.to.upgraded:
		err = apierrors.NewInternalError(fmt.Errorf("error dialing backend: %w", err))
	default:
		err = apierrors.NewServiceUnavailable("error trying to reach service: " + err.Error())
	}
	e.c.cfg.Fail(w, r, err)
}

// hijacker closes a connection that was upgraded when it is to end.
type hijacker struct {
	http.ResponseWriter
	mu    sync.Mutex
	conn  net.Conn
	ended bool
}

func (h *hijacker) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	if h.conn != nil {
		_ = h.conn.Close() // its other end may have closed it
	}
}

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn = conn; h.ended {
		_ = conn.Close() // at once
	}
	return conn, rw, nil
}

// Unwrap is for http.ResponseController.
func (h *hijacker) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// maxError is how much is read of an answer that says what went wrong, in bytes.
const maxError = 16 << 10

// Get asks a node for something that may take long. What comes back is to be closed. What went wrong is a status error about the
// resource that was meant.
func (c *Connector) Get(ctx context.Context, to *Target, resource schema.GroupResource, name string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.cfg.Ending, cancel)
	end := func() {
		stop()
		cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.URL.String(), nil)
	if err != nil {
		end()
		return nil, err
	}
	resp, err := to.via.RoundTrip(req)
	if err != nil {
		end()
		return nil, apierrors.NewInternalError(fmt.Errorf("error dialing backend: %w", err))
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode <= http.StatusPartialContent {
		return &body{resp.Body, end}, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // what could be read is told
	_ = resp.Body.Close()                                      // it was only read
	end()
	message := strings.TrimSpace(string(text))
	switch resp.StatusCode {
	case http.StatusInternalServerError:
		return nil, apierrors.NewInternalError(errors.New(message))
	case http.StatusBadRequest:
		return nil, apierrors.NewBadRequest(message)
	}
	return nil, apierrors.NewGenericServerResponse(resp.StatusCode, http.MethodGet, resource, name, message, 0, true)
}

// body ends its request when it is closed.
type body struct {
	io.ReadCloser
	end func()
}

func (b *body) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
