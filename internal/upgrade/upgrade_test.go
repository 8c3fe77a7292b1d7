package upgrade_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/proxy"

	"github.com/keelson-io/keelson/internal/upgrade"
)

// server is the connection to one that upgrades, takes nothing more, and has something to say after that.
type server struct {
	net.Conn // none: only what is here is called
	said     io.Reader
	writes   atomic.Int32
	refused  chan struct{}
	closed   chan struct{}
}

func (s *server) Write(b []byte) (int, error) {
	if s.writes.Add(1) == 1 {
		return len(b), nil // the request
	}
	close(s.refused)
	return 0, syscall.EPIPE
}

func (s *server) Read(b []byte) (int, error) {
	n, err := s.said.Read(b)
	if err != io.EOF {
		return n, err
	}
	<-s.refused
	select { // who gives up because nothing was taken closes at once
	case <-s.closed:
		return 0, net.ErrClosed
	case <-time.After(100 * time.Millisecond):
	}
	s.said = io.MultiReader() // nothing more
	return copy(b, "the last word"), io.EOF
}

func (s *server) Close() error {
	close(s.closed)
	return nil
}

type failed struct{}

func (failed) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// What a server said last arrives though it takes nothing more.
func TestLastWord(t *testing.T) {
	s := &server{
		said:    strings.NewReader("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n"),
		refused: make(chan struct{}), closed: make(chan struct{}),
	}
	via := upgrade.Transport(&http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return s, nil }})
	front := httptest.NewServer(proxy.NewUpgradeAwareHandler(&url.URL{Scheme: "http", Host: "server"}, via, false, true, failed{}))
	defer front.Close()

	c, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: server\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n")
	require.NoError(t, err)
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	_, err = io.WriteString(c, "is anybody there?")
	require.NoError(t, err)
	b, err := io.ReadAll(in)
	require.NoError(t, err)
	require.Equal(t, "the last word", string(b))
}
