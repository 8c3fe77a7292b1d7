package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// newTransport makes the transport of a host.
func newTransport(h Host, stall time.Duration) (*http.Transport, error) {
	conf := &tls.Config{InsecureSkipVerify: h.SkipVerify} //nolint:gosec // by configuration
	if h.CA != "" {
		pem, err := os.ReadFile(h.CA)
		if err != nil {
			return nil, err
		}
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificates", h.CA)
		}
	}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(stall, 30*time.Second), KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   min(stall, 10*time.Second),
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // digests are of what is sent
	}, nil
}

// guarded bounds the time in which nothing moves, and refuses http where it is not wanted.
type guarded struct {
	inner http.RoundTripper
	host  string
	stall time.Duration
	http  bool // http may be spoken
	https bool
}

func (g *guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "http" && !g.http {
		return nil, &failure{kind: ErrUnavailable, err: ErrUnavailable,
			text: fmt.Sprintf("the registry %s speaks http and not https, which its configuration does not allow", g.host)}
	}
	if req.URL.Scheme == "https" && !g.https {
		return nil, fmt.Errorf("https is off for %s", g.host)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{d: g.stall, cancel: cancel, cause: &stalled{g.host, g.stall}}
	w.timer = time.AfterFunc(g.stall, w.fire)
	out := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		out.Body = &watched{req.Body, w, ctx, false}
	}
	resp, err := g.inner.RoundTrip(out)
	if err != nil {
		err = because(ctx, err)
		w.stop()
		return nil, err
	}
	w.moved()
	resp.Body = &watched{resp.Body, w, ctx, true}
	return resp, nil
}

// because prefers the cause of a cancelled context over what it led to.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watch cancels a request that stands still.
type watch struct {
	timer  *time.Timer
	d      time.Duration
	cancel context.CancelCauseFunc
	cause  error
}

func (w *watch) fire()  { w.cancel(w.cause) }
func (w *watch) moved() { w.timer.Reset(w.d) }
func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// watched is a body of a watched request.
type watched struct {
	io.ReadCloser
	w    *watch
	ctx  context.Context
	last bool // the end of this one is the end of the request
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.w.moved()
	}
	if err != nil && err != io.EOF {
		err = because(b.ctx, err)
	}
	return n, err
}

func (b *watched) Close() error {
	if b.last {
		b.w.stop()
	}
	return b.ReadCloser.Close()
}
