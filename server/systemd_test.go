package server_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestServiceManager runs a member as systemd does with Type=notify: it says that it is ready only when it serves, and that it
// stops before it does.
func TestServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	said := func() string {
		require.NoError(t, l.SetReadDeadline(time.Now().Add(time.Minute)))
		buf := make([]byte, 4096)
		n, err := l.Read(buf)
		require.NoError(t, err)
		return string(buf[:n])
	}
	c := servertest.New(t, 2, append(servertest.Quick(), "--log-level=error")...)
	cfg, err := config.Parse(c.Args(c.Members[0]), nil)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, cfg) }()
	require.Equal(t, "STATUS=joining the cluster", said())
	c.Run(c.Members[1]) // this one is not run by the manager
	c.WaitReady(c.Members[1])
	require.Equal(t, "READY=1\nSTATUS=serving clients at http://"+c.Members[0].Client, said())
	_, body := get(t, c, c.Members[0], "/health")
	require.True(t, strings.Contains(body, "true"), body)
	stop()
	require.Equal(t, "STOPPING=1\nSTATUS=stopping", said())
	require.NoError(t, <-done)
}
