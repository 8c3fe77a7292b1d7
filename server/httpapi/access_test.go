package httpapi

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func TestAccess(t *testing.T) {
	for _, c := range []struct {
		name           string
		hosts, origins []string
		host, origin   string
		secure, socket bool
		method         string
		status         int
		allowed        string
	}{
		{name: "defaults", hosts: []string{"*"}, origins: []string{"*"}, host: "x:1", origin: "http://o:1", status: 200, allowed: "*"},
		{name: "nothing configured", host: "x", status: 200, allowed: "*"},
		{name: "host", hosts: []string{"a", "b"}, host: "b:2379", status: 200, allowed: "*"},
		{name: "other host", hosts: []string{"a"}, host: "b:2379", status: 421},
		{name: "other host without port", hosts: []string{"a"}, host: "b", status: 421},
		{name: "IPv6", hosts: []string{"::1"}, host: "[::1]:1", status: 200, allowed: "*"},
		{name: "other host with TLS", hosts: []string{"a"}, host: "b", secure: true, status: 200, allowed: "*"},
		{name: "origin", origins: []string{"http://o:1", "http://p:1"}, origin: "http://p:1", status: 200, allowed: "http://p:1"},
		{name: "other origin", origins: []string{"http://o:1"}, origin: "http://p:1", status: 200},
		{name: "no origin", origins: []string{"http://o:1"}, status: 200},
		{name: "socket of an origin", origins: []string{"http://o:1"}, origin: "http://o:1", socket: true, status: 200, allowed: "http://o:1"},
		{name: "socket of another origin", origins: []string{"http://o:1"}, origin: "http://p:1", socket: true, status: 403},
		{name: "socket of no page", origins: []string{"http://o:1"}, socket: true, status: 200},
		{name: "options", origins: []string{"http://o:1"}, origin: "http://o:1", method: http.MethodOptions, status: 200, allowed: "http://o:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			called := false
			h := Access{Hosts: c.hosts, Origins: c.origins, Logger: zap.NewNop()}.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
			r := httptest.NewRequest(c.method, "/health", nil)
			r.Host = c.host
			if c.secure {
				r.TLS = &tls.ConnectionState{}
			}
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			if c.socket {
				r.Header.Set("Connection", "Upgrade")
				r.Header.Set("Upgrade", "websocket")
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Equal(t, c.status, w.Code)
			require.Equal(t, c.status == 200 && c.method != http.MethodOptions, called)
			require.Equal(t, c.allowed, w.Header().Get("Access-Control-Allow-Origin"))
			require.Equal(t, c.allowed != "", w.Header().Get("Access-Control-Allow-Methods") != "")
		})
	}
}
