package connect

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Subprotocols of WebSockets that carry bytes one way: as they are, which is the default, and as text.
const (
	binaryMessages = "binary.k8s.io"
	textMessages   = "base64." + binaryMessages
)

// maxMessage bounds a message, in bytes.
const maxMessage = 32 << 10

// farewell is how long the other side has to take the last message.
const farewell = 5 * time.Second

// Messages answers a WebSocket with what is read, as it comes, and then ends it. An empty message comes first, so that it is known
// that there is an answer. What is read from is closed when one of the sides ends: it may have nothing to say for long.
func (c *Connector) Messages(w http.ResponseWriter, r *http.Request, from io.ReadCloser) {
	u := websocket.Upgrader{
		Subprotocols: []string{binaryMessages, textMessages},
		CheckOrigin:  func(*http.Request) bool { return true }, // who asks is known by a token or a certificate, never by a cookie
		Error: func(w http.ResponseWriter, r *http.Request, _ int, reason error) {
			c.cfg.Fail(w, r, apierrors.NewBadRequest(reason.Error()))
		},
	}
	conn, err := u.Upgrade(w, r, nil)
	if err != nil {
		return // it was answered
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(c.cfg.Ending, cancel)()
	defer context.AfterFunc(ctx, func() { _, _ = conn.Close(), from.Close() })() // nothing more is expected of them
	go func() {
		defer cancel()
		for { // nothing is expected: this finds out when the other side ends
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	for b, n := make([]byte, maxMessage), 0; err == nil; n, err = from.Read(b) {
		if send(conn, b[:n]) != nil {
			return // the other side is gone
		}
	}
	code, why := websocket.CloseNormalClosure, ""
	if !errors.Is(err, io.EOF) {
		code, why = websocket.CloseInternalServerErr, "the source has ended too early"
	}
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, why), time.Now().Add(farewell)) // it may be gone
	select {
	case <-ctx.Done(): // the other side has taken it, and ended
	case <-time.After(farewell):
	}
}

func send(conn *websocket.Conn, b []byte) error {
	if conn.Subprotocol() == textMessages {
		return conn.WriteMessage(websocket.TextMessage, []byte(base64.StdEncoding.EncodeToString(b)))
	}
	return conn.WriteMessage(websocket.BinaryMessage, b)
}
