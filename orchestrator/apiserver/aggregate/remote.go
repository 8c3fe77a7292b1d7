package aggregate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	idleConnections  = 32 // per server
	defaultPort      = 443
)

// remote is another server.
type remote struct {
	uid       types.UID
	spec      apiregistrationv1.APIServiceSpec // with a service; never changed
	host      string                           // name and port, as they are in URLs
	transport *http.Transport
	proxy     *httputil.ReverseProxy
	broken    error // why there can be no connection

	// The Aggregator's mutex guards these.
	resources []metav1.APIResource // that it told of, nil: none yet
	schema    string               // the URL of its document of OpenAPI 3, "": none is known
	due       time.Time            // when it is to be looked at
	busy      bool                 // somebody looks at it
	again     bool                 // it has changed since he began
	failures  int                  // in a row
}

func (a *Aggregator) newRemote(s *apiregistrationv1.APIService) *remote {
	spec := *s.Spec.DeepCopy()
	r := &remote{uid: s.UID, spec: spec}
	name := spec.Service.Name + "." + spec.Service.Namespace + ".svc"
	r.host = net.JoinHostPort(name, strconv.Itoa(int(r.port())))
	secure := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, InsecureSkipVerify: spec.InsecureSkipTLSVerify} //nolint:gosec // as the object says
	if a.cfg.Certificate != nil {
		secure.Certificates = []tls.Certificate{*a.cfg.Certificate}
	}
	if len(spec.CABundle) > 0 {
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(spec.CABundle) {
			r.broken = errors.New("spec.caBundle: there is no certificate in it")
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	// HTTP/1.1 it is: one connection of HTTP/2 would take all requests to one endpoint, and cannot be upgraded.
	r.transport = &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			address, err := a.cfg.Services.Resolve(ctx, spec.Service.Namespace, spec.Service.Name, r.port())
			if err != nil {
				return nil, err
			}
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig: secure, TLSHandshakeTimeout: handshakeTimeout, MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleTimeout,
		DisableCompression: true, // what is compressed goes through as it is
	}
	r.proxy = &httputil.ReverseProxy{
		Rewrite: r.rewrite, Transport: r.transport, FlushInterval: -1, ModifyResponse: noRedirect, ErrorLog: log.New(quiet{a.cfg.Logger}, "", 0),
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			if errors.Is(err, errRedirect) {
				a.cfg.Fail(w, req, &apierrors.StatusError{ErrStatus: metav1.Status{
					Status: metav1.StatusFailure, Code: http.StatusBadGateway, Reason: metav1.StatusReasonInternalError, Message: err.Error(),
				}})
				return
			}
			if req.Context().Err() == nil {
				a.cfg.Logger.Info("an aggregated API server does not answer", zap.String("server", r.host), zap.Error(err))
			}
			a.cfg.Fail(w, req, unavailable(err))
		},
	}
	return r
}

func unavailable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return apierrors.NewServiceUnavailable("service unavailable")
}

func (r *remote) port() int32 {
	if p := r.spec.Service.Port; p != nil {
		return *p
	}
	return defaultPort
}

func (r *remote) close() { r.transport.CloseIdleConnections() }

// rewrite sends a request to the server, with the user in its headers. The path is encoded anew: it is the one by which the
// request was authorized.
func (r *remote) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "https", r.host, ""
	p.Out.URL.RawPath, p.Out.URL.RawQuery = "", p.In.URL.Query().Encode()
	p.SetXForwarded()
	for name := range p.Out.Header {
		if strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") || name == "Authorization" {
			p.Out.Header.Del(name)
		}
	}
	if u := request.UserFrom(p.In.Context()); u != nil {
		transport.SetAuthProxyHeaders(p.Out, u.Name, u.UID, u.Groups, u.Extra)
	}
}

var errRedirect = errors.New("the backend attempted to redirect this request, which is not permitted")

// noRedirect refuses redirects: a server could send clients, who trust this one, anywhere.
func noRedirect(r *http.Response) error {
	if r.StatusCode >= 300 && r.StatusCode <= 399 && r.Header.Get("Location") != "" {
		return errRedirect
	}
	return nil
}

// Handler sends requests for what other servers serve to these, and all others to next.
func (a *Aggregator) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := a.view.Load()
		if len(v.remotes) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		to, ok := v.remotes[groupVersion(r.URL.Path)]
		switch {
		case !ok:
			next.ServeHTTP(w, r)
		case dotted(r.URL.Path): // it may be another path for the server than the one that was authorized
			a.cfg.Fail(w, r, apierrors.NewBadRequest("the path must not have . or .. in it"))
		case to.broken != nil:
			a.cfg.Fail(w, r, apierrors.NewInternalError(to.broken))
		case !to.available:
			a.cfg.Fail(w, r, unavailable(nil))
		case request.UserFrom(r.Context()) == nil:
			a.cfg.Fail(w, r, apierrors.NewInternalError(errors.New("missing user")))
		default:
			to.proxy.ServeHTTP(w, r)
		}
	})
}

func dotted(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

// groupVersion is the one below whose path a request is; the zero one if there is none. A group version's OpenAPI document is
// its own, too, but not what would be below that.
func groupVersion(path string) schema.GroupVersion {
	path, document := strings.CutPrefix(path, "/openapi/v3")
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 4)
	if document && (len(parts) > 3 || len(parts) > 2 && parts[0] == "api") {
		return schema.GroupVersion{}
	}
	switch {
	case len(parts) >= 2 && parts[0] == "api":
		return schema.GroupVersion{Version: parts[1]}
	case len(parts) >= 3 && parts[0] == "apis":
		return schema.GroupVersion{Group: parts[1], Version: parts[2]}
	}
	return schema.GroupVersion{}
}

// root is the path of the server's group version.
func (r *remote) root() string {
	if r.spec.Group == "" {
		return "/api/" + r.spec.Version
	}
	return fmt.Sprintf("/apis/%s/%s", r.spec.Group, r.spec.Version)
}

// quiet logs what ReverseProxy has to say about connections that ended early.
type quiet struct{ lg *zap.Logger }

func (q quiet) Write(p []byte) (int, error) {
	q.lg.Debug("aggregated API server", zap.ByteString("message", p))
	return len(p), nil
}
