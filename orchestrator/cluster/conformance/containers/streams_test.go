//go:build linux

package containers

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func streams() behaviours {
	return behaviours{
		"Pods should support remote command execution over websockets":           websocketExec,
		"Pods should support retrieving logs from the container over websockets": websocketLogs,
	}
}

// received are the messages that come over a WebSocket, one after the other, until the other side ends it.
func received(t *testing.T, ns, what, protocol string, query url.Values) (all []string) {
	t.Helper()
	secure, err := rest.TLSConfigFor(cluster.Config)
	require.NoError(t, err)
	d := websocket.Dialer{TLSClientConfig: secure, Subprotocols: []string{protocol}}
	to := "wss" + strings.TrimPrefix(cluster.Config.Host, "https") + "/api/v1/namespaces/" + ns + "/pods/app/" + what + "?" + query.Encode()
	header := http.Header{}
	if token := cluster.Config.BearerToken; token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	conn, resp, err := d.DialContext(t.Context(), to, header)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	defer func() { require.NoError(t, conn.Close()) }()
	require.Equal(t, protocol, conn.Subprotocol())
	for {
		_, b, err := conn.ReadMessage()
		if err != nil {
			require.True(t, websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseNoStatusReceived), "%v", err)
			return all
		}
		all = append(all, string(b))
	}
}

func websocketExec(t *testing.T, ns string) {
	cluster.Started(t, ns, nodetest.Pod("app", "sleep"))
	all := received(t, ns, "exec", "channel.k8s.io", url.Values{
		"container": {"main"}, "stdout": {"1"}, "stderr": {"1"}, "command": {"echo", "remote", "execution test"},
	})
	var out strings.Builder
	for _, m := range all {
		if strings.HasPrefix(m, "\x01") { // its first byte is the stream's number
			out.WriteString(m[1:])
		} else {
			require.Len(t, m, 1, "only the standard output has something")
		}
	}
	require.Equal(t, "remote execution test\n", out.String())
}
func websocketLogs(t *testing.T, ns string) {
	cluster.Finished(t, ns, nodetest.Pod("app", "echo", "container is alive"))
	all := received(t, ns, "log", "binary.k8s.io", url.Values{"container": {"main"}})
	require.Equal(t, "container is alive\n", strings.Join(all, ""))
}
