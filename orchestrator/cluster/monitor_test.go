package cluster

import (
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func TestMonitor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	_, err = monitor(address, newRegistry(), zap.NewNop())
	require.Error(t, err, "the port is taken")
	require.NoError(t, l.Close())
	stop, err := monitor(address, newRegistry(), zap.NewNop())
	require.NoError(t, err)
	get := func(path string) (int, string) {
		t.Helper()
		r, err := http.Get("http://" + address + path)
		require.NoError(t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		return r.StatusCode, string(b)
	}
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		code, body := get(path)
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, "ok", body)
	}
	code, body := get("/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, "process_resident_memory_bytes")
	code, _ = get("/else")
	require.Equal(t, http.StatusNotFound, code)
	stop()
	_, err = net.Dial("tcp", address)
	require.Error(t, err)
}
