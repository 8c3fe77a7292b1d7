package gateway

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// member answers a range with what it was asked, and a watch with a response for each request.
type member struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	tokens chan string
	ended  chan struct{}
}

func (m *member) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Count: int64(len(r.Key))}, nil
}

func (m *member) Watch(s pb.Watch_WatchServer) error {
	defer close(m.ended)
	md, _ := metadata.FromIncomingContext(s.Context())
	m.tokens <- strings.Join(md.Get("authorization"), ",")
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(&pb.WatchResponse{WatchId: r.GetCreateRequest().GetWatchId()}); err != nil {
			return err
		}
	}
}

func serve(t *testing.T, maxBytes int64) (*httptest.Server, *member) {
	t.Helper()
	g, err := New(maxBytes)
	require.NoError(t, err)
	m := &member{tokens: make(chan string, 1), ended: make(chan struct{})}
	server := grpc.NewServer()
	pb.RegisterKVServer(server, m)
	pb.RegisterWatchServer(server, m)
	go func() { _ = server.Serve(g.Listener()) }()
	mux := http.NewServeMux()
	g.Register(mux)
	s := httptest.NewServer(mux)
	t.Cleanup(func() {
		s.Close()
		server.Stop()
		require.NoError(t, g.Close())
	})
	return s, m
}

func dial(t *testing.T, s *httptest.Server, path string, protocols ...string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{Subprotocols: protocols}
	c, resp, err := d.Dial("ws"+strings.TrimPrefix(s.URL, "http")+path, nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	return c
}

func TestBound(t *testing.T) {
	s, _ := serve(t, 1000)
	for _, c := range []struct {
		body   string
		status int
	}{
		{`{"key": "` + strings.Repeat("QUFB", 200) + `"}`, http.StatusOK},
		{`{"key": "` + strings.Repeat("QUFB", 300) + `"}`, http.StatusBadRequest},
		{strings.Repeat(" ", 10_000), http.StatusBadRequest},
	} {
		resp, err := http.Post(s.URL+"/v3/kv/range", "application/json", strings.NewReader(c.body))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, c.status, resp.StatusCode)
	}
}

// Each value of a stream has the bound to itself, and a socket ends its call when the client has gone.
func TestWebSocket(t *testing.T) {
	s, m := serve(t, 200)
	c := dial(t, s, "/v3beta/watch")
	for range 10 {
		require.NoError(t, c.WriteMessage(websocket.TextMessage, []byte(`{"create_request": {"key": "`+strings.Repeat("QUFB", 20)+`", "watch_id": 7}}`)))
		_, msg, err := c.ReadMessage()
		require.NoError(t, err)
		require.JSONEq(t, `{"result":{"watch_id":"7"}}`, string(msg))
	}
	require.NoError(t, c.Close())
	<-m.ended
}

func TestWebSocketToken(t *testing.T) {
	s, m := serve(t, 200)
	c := dial(t, s, "/v3/watch", "Bearer", "secret.1")
	require.Equal(t, "Bearer", c.Subprotocol())
	require.NoError(t, c.WriteMessage(websocket.TextMessage, []byte(`{"create_request": {}}`)))
	require.Equal(t, "secret.1", <-m.tokens)
	require.NoError(t, c.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("x", 300))))
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			require.True(t, websocket.IsCloseError(err, websocket.CloseMessageTooBig), "%v", err)
			break
		}
	}
	<-m.ended
}
