package httpapi

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/websocket"
	"go.uber.org/zap"
)

// Access says which HTTP requests of clients are answered, beside what TLS says.
type Access struct {
	// Hosts are the host names that requests without TLS may be for; with "*" in it, or empty, all are. A browser that was
	// lured to a name that resolves to this member sends that name (DNS rebinding, CVE-2018-5702).
	Hosts []string
	// Origins are the origins whose pages may read answers (CORS); with "*" in it, or empty, all may.
	Origins []string
	// Names says whether the names in clients' certificates are users now; nil is never. They do not count for the JSON
	// gateway, so a client who shows one is told so.
	Names  func() bool
	Logger *zap.Logger
}

// Wrap makes a handler that answers what is allowed. It answers OPTIONS itself.
func (a Access) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := hostname(r); r.TLS == nil && !has(a.Hosts, host) {
			a.Logger.Warn("rejecting HTTP request to prevent DNS rebinding attacks", zap.String("host", host))
			http.Error(w, fmt.Sprintf("This member does not answer plain HTTP requests for the host %q. Use TLS, or start it with --host-whitelist=%q.", host, host),
				http.StatusMisdirectedRequest)
			return
		}
		if a.ignoresName(r) {
			http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
			return
		}
		switch origin := r.Header.Get("Origin"); {
		case has(a.Origins, "*"):
			allowOrigin(w.Header(), "*")
		case has(a.Origins, origin):
			allowOrigin(w.Header(), origin)
		}
		// No browser asks before it opens a WebSocket.
		if origin := r.Header.Get("Origin"); origin != "" && websocket.IsWebSocketUpgrade(r) && !has(a.Origins, origin) {
			http.Error(w, fmt.Sprintf("Pages of %q are not allowed to connect; see --cors.", origin), http.StatusForbidden)
			return
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ignoresName says whether a client might believe that the gateway knows it by its certificate.
func (a Access) ignoresName(r *http.Request) bool {
	gateway := strings.HasPrefix(r.URL.Path, "/v3/") || strings.HasPrefix(r.URL.Path, "/v3beta/")
	if r.TLS == nil || a.Names == nil || !gateway || !a.Names() {
		return false
	}
	return slices.ContainsFunc(r.TLS.VerifiedChains, func(chain []*x509.Certificate) bool {
		return len(chain) > 0 && chain[0].Subject.CommonName != ""
	})
}

func has(list []string, v string) bool {
	return len(list) == 0 || slices.Contains(list, "*") || slices.Contains(list, v)
}

// hostname is the host that a request is for, without a port.
func hostname(r *http.Request) string {
	if h, _, err := net.SplitHostPort(r.Host); err == nil {
		return h
	}
	return r.Host
}

func allowOrigin(h http.Header, origin string) {
	h.Add("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
	h.Add("Access-Control-Allow-Origin", origin)
	h.Add("Access-Control-Allow-Headers", "accept, content-type, authorization")
}
