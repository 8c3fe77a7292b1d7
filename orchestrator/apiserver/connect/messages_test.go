package connect

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

func TestMessages(t *testing.T) {
	for _, c := range []struct {
		name, protocol string
		from           io.Reader
		want           []string
		code           int
	}{
		{"bytes", binaryMessages, iotest.HalfReader(strings.NewReader("hello")), []string{"", "hello"}, websocket.CloseNormalClosure},
		{"by default", "", strings.NewReader("hello"), []string{"", "hello"}, websocket.CloseNormalClosure},
		{"text", textMessages, strings.NewReader("hello"), []string{"", "aGVsbG8="}, websocket.CloseNormalClosure},
		{"nothing", binaryMessages, strings.NewReader(""), []string{""}, websocket.CloseNormalClosure},
		{"a failure", binaryMessages, io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(errors.New("no more"))), []string{"", "hel"}, websocket.CloseInternalServerErr},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, _, _ := asked(t, io.NopCloser(c.from), c.protocol)
			require.Equal(t, c.protocol, conn.Subprotocol())
			var got []string
			for {
				_, b, err := conn.ReadMessage()
				if err != nil {
					require.True(t, websocket.IsCloseError(err, c.code), "%v", err)
					break
				}
				got = append(got, string(b))
			}
			require.Equal(t, c.want, got)
		})
	}
}

// TestMessagesEnd lets each side end what would go on for ever.
func TestMessagesEnd(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			from, _ := io.Pipe()
			conn, end, done := asked(t, from, binaryMessages)
			_, _, err := conn.ReadMessage()
			require.NoError(t, err)
			if side == "server" {
				end()
				_, _, err = conn.ReadMessage()
				require.Error(t, err)
			}
			require.NoError(t, conn.Close())
			<-done
		})
	}
}

// asked is a WebSocket that is answered from a reader, with a function that ends the connector. done tells that it is answered.
func asked(t *testing.T, from io.ReadCloser, protocol string) (conn *websocket.Conn, end context.CancelFunc, done chan struct{}) {
	t.Helper()
	ending, end := context.WithCancel(t.Context())
	c := &Connector{cfg: Config{Ending: ending}}
	done = make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		c.Messages(w, r, from)
	}))
	t.Cleanup(func() {
		end()
		<-done
		server.Close()
	})
	var d websocket.Dialer
	if protocol != "" {
		d.Subprotocols = []string{protocol}
	}
	conn, resp, err := d.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return conn, end, done
}
