package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/gorilla/websocket"
)

// http runs `http METHOD PATH` with the body as input, and prints the status and the body, one JSON value a line.
func (r *Runner) http(t *testing.T, d *datadriven.TestData) (string, error) {
	if len(d.CmdArgs) < 2 {
		t.Fatalf("%s: http METHOD PATH", d.Pos)
	}
	req, err := http.NewRequest(d.CmdArgs[0].Key, "http://"+r.addr+d.CmdArgs[1].Key, strings.NewReader(d.Input))
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: Timeout}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	lines := []string{fmt.Sprint(resp.StatusCode)}
	body := bufio.NewReader(resp.Body)
	for {
		line, err := body.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			lines = append(lines, tidyJSON(line))
		}
		if errors.Is(err, io.EOF) {
			return strings.Join(lines, "\n"), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// webSocket runs `ws.open NAME PATH`, `ws.send NAME` with a message as input, `ws.recv NAME n=2` and `ws.close NAME`.
func (r *Runner) webSocket(t *testing.T, d *datadriven.TestData, verb string) (string, error) {
	name := d.CmdArgs[0].Key
	if verb == "open" {
		conn, resp, err := websocket.DefaultDialer.Dial("ws://"+r.addr+d.CmdArgs[1].Key, nil)
		if err != nil {
			return "", err
		}
		_ = resp.Body.Close()
		t.Cleanup(func() { _ = conn.Close() })
		r.sockets[name] = conn
		return "ok", nil
	}
	conn := r.sockets[name]
	if conn == nil {
		t.Fatalf("%s: no socket %q", d.Pos, name)
	}
	switch verb {
	case "send":
		return "ok", conn.WriteMessage(websocket.TextMessage, []byte(d.Input))
	case "recv":
		n := 1
		d.MaybeScanArgs(t, "n", &n)
		_ = conn.SetReadDeadline(time.Now().Add(Timeout))
		var lines []string
		for range n {
			_, msg, err := conn.ReadMessage()
			if err != nil {
				return "", err
			}
			lines = append(lines, tidyJSON(msg))
		}
		return strings.Join(lines, "\n"), nil
	case "close":
		delete(r.sockets, name)
		return "ok", conn.Close()
	}
	t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	return "", nil
}

// tidyJSON prints a JSON value with sorted keys, without what differs between targets. Other text is printed as it is.
func tidyJSON(b []byte) string {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return strings.TrimSpace(string(b))
	}
	scrubJSON(v)
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was read as JSON
	}
	return spaces.ReplaceAllString(strings.ReplaceAll(string(out), "\u00a0", " "), " ") // protobuf's messages vary in their spaces
}

var differing = []string{"cluster_id", "member_id", "raft_term", "raftTerm", "raftIndex", "raftAppliedIndex", "leader", "dbSize", "dbSizeInUse"}

func scrubJSON(v any) {
	switch v := v.(type) {
	case map[string]any:
		if v["grantedTTL"] != nil {
			delete(v, "TTL") // it runs down
		}
		for _, name := range differing {
			if _, ok := v[name].(string); ok {
				delete(v, name)
			}
		}
		for _, e := range v {
			scrubJSON(e)
		}
	case []any:
		for _, e := range v {
			scrubJSON(e)
		}
	}
}
