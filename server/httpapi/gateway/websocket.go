package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

func isWebSocket(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// bearer is the subprotocol of a browser that has a token: "Bearer, <token>". It cannot set headers of its own.
const bearer = "Bearer"

// farewell bounds the last message to a client, in time.
const farewell = 5 * time.Second

// serveWebSocket carries a call over a WebSocket: each message of the client is a value of the request, each message to it one
// of the response.
func (g *Gateway) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	// Which origins may connect was asked before, for all of HTTP.
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	protocols := websocket.Subprotocols(r)
	if len(protocols) > 0 && protocols[0] == bearer {
		up.Subprotocols = []string{bearer}
	}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer conn.Close()
	conn.SetReadLimit(g.maxBytes)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	body, send := io.Pipe()
	call := r.Clone(ctx)
	call.Method, call.Body, call.ContentLength = http.MethodPost, body, -1
	for name := range call.Header {
		if strings.HasPrefix(name, "Sec-Websocket-") || name == "Upgrade" || name == "Connection" {
			call.Header.Del(name)
		}
	}
	if len(protocols) == 2 && protocols[0] == bearer {
		call.Header.Set("Authorization", protocols[1])
	}
	var receiving sync.WaitGroup
	receiving.Go(func() {
		defer cancel()
		_ = send.CloseWithError(receive(conn, send))
	})
	out := &messages{conn: conn, header: http.Header{}}
	g.mux.ServeHTTP(out, call)
	_ = out.end()
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(farewell))
	_ = body.Close()
	_ = conn.Close()
	receiving.Wait()
}

// receive writes each message of the client as a line, until it has gone.
func receive(conn *websocket.Conn, to io.Writer) error {
	for {
		_, msg, err := conn.ReadMessage()
		if err != nil {
			var closed *websocket.CloseError
			if errors.As(err, &closed) {
				return io.EOF
			}
			return err
		}
		if _, err := to.Write(append(msg, '\n')); err != nil {
			return err
		}
	}
}

// messages is a response whose lines are messages.
type messages struct {
	conn    *websocket.Conn
	header  http.Header
	pending []byte
}

// Header is http.ResponseWriter's. A WebSocket has no place for headers.
func (m *messages) Header() http.Header { return m.header }

// WriteHeader is http.ResponseWriter's. What is wrong is told in the body too.
func (m *messages) WriteHeader(int) {}

// Flush is http.Flusher's: lines are sent when they are complete.
func (m *messages) Flush() {}

// Write is http.ResponseWriter's.
func (m *messages) Write(p []byte) (int, error) {
	m.pending = append(m.pending, p...)
	for {
		line, rest, ok := bytes.Cut(m.pending, []byte{'\n'})
		if !ok {
			return len(p), nil
		}
		if err := m.send(line); err != nil {
			return 0, err
		}
		m.pending = rest
	}
}

// end sends what is no whole line.
func (m *messages) end() error { return m.send(m.pending) }

func (m *messages) send(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	return m.conn.WriteMessage(websocket.TextMessage, line)
}
