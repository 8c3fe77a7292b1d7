package serve_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/registration"
	"github.com/keelson-io/keelson/orchestrator/node/serve"
)

// ready is a runtime that is ready, and has no images.
type ready struct{}

func (ready) Version(context.Context, *runtimeapi.VersionRequest, ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "test", RuntimeVersion: "1"}, nil
}

func (ready) Status(context.Context, *runtimeapi.StatusRequest, ...grpc.CallOption) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
	}}}, nil
}

func (ready) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{}, nil
}

// A node that joined with a token is reached by what it has got from the cluster alone, and asks it who may do what.
func TestJoined(t *testing.T) {
	ctx, admin := t.Context(), shared.Client(t, nil)
	_, err := admin.CoreV1().Secrets("kube-system").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-joined"}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": "joined", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	bootstrap := rest.AnonymousClientConfig(shared.Config)
	bootstrap.BearerToken = "joined.0123456789abcdef"
	credentials, err := registration.Join(ctx, registration.JoinConfig{Dir: t.TempDir(), Name: "joined", Bootstrap: bootstrap})
	require.NoError(t, err)
	t.Cleanup(credentials.Close)
	client, err := kubernetes.NewForConfig(credentials.Config())
	require.NoError(t, err)
	ns := shared.Namespace(t)
	pod, err := admin.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "joined", Containers: []corev1.Container{{Name: "a", Image: "i"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	var registered atomic.Pointer[registration.Registration]
	serving, err := credentials.Serving(func() *corev1.Node {
		if r := registered.Load(); r != nil {
			return r.Node()
		}
		return nil
	})
	require.NoError(t, err)
	known := pod.DeepCopy()
	server, err := serve.New(serve.Config{
		Node: "joined", Address: "127.0.0.1:0", Certificate: serving.Certificate, ClientCAs: roots(t), Client: client,
		Workers: &workers{pod: known}, Runtime: execs{newRuntime(t, string(pod.UID))},
	})
	require.NoError(t, err)
	node, err := registration.New(registration.Config{
		Client: client, Name: "joined", Runtime: ready{}, Images: ready{}, Port: int32(netip.MustParseAddrPort(server.Addr().String()).Port()),
		Addresses: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
	})
	require.NoError(t, err)
	registered.Store(node)
	background, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- server.Run(background) }()
	go func() { done <- node.Run(background) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, <-done)
	})

	w := &world{client: admin, namespace: ns}
	request := w.request("POST", "exec").Param("container", "a").Param("command", "echo").Param("command", "hello").Param("stdout", "true")
	require.Eventually(t, func() bool {
		var out bytes.Buffer
		err := executors(t, shared.Config, request)["WebSocket"].StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})
		return err == nil && out.String() == "hello\n"
	}, time.Minute, 50*time.Millisecond, "the API server believes the certificate that the cluster signed")

	// The node itself may ask who somebody is, and what he may do.
	token, err := admin.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(t, err)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots(t), MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server.Addr().String()+"/pods", nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+token.Status.Token)
	resp, err := tr.RoundTrip(r)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "Forbidden (user=system:serviceaccount:"+ns+":default, verb=get, resource=nodes, subresource(s)=[pods proxy])\n", string(text))
}

// Clients of other languages speak the protocol of WebSockets that runtimes speak themselves, and some send tokens in its header.
func TestOldWebSocket(t *testing.T) {
	w := start(t, "old")
	token, err := shared.Client(t, nil).CoreV1().ServiceAccounts(w.namespace).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(t, err)
	u := w.request("GET", "exec").Param("container", "a").Param("command", "cat").Param("stdin", "true").Param("stdout", "true").URL()
	u.Scheme = "wss"
	secure, err := rest.TLSConfigFor(shared.Config)
	require.NoError(t, err)
	d := websocket.Dialer{TLSClientConfig: secure, Subprotocols: []string{"v4.channel.k8s.io"}}
	conn, resp, err := d.DialContext(t.Context(), u.String(), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	defer conn.Close()
	require.Equal(t, "v4.channel.k8s.io", conn.Subprotocol())
	require.NoError(t, conn.WriteMessage(websocket.BinaryMessage, []byte("\x00hello")))
	var said strings.Builder
	for said.String() != "hello" {
		_, b, err := conn.ReadMessage()
		require.NoError(t, err)
		require.EqualValues(t, 1, b[0])
		said.Write(b[1:])
	}

	// A service account that may do nothing is known by its token, and refused.
	secure.GetClientCertificate, secure.Certificates = nil, nil
	d = websocket.Dialer{TLSClientConfig: secure, Subprotocols: []string{
		"base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token.Status.Token)), "v4.channel.k8s.io",
	}}
	_, resp, err = d.DialContext(t.Context(), u.String(), nil)
	require.ErrorIs(t, err, websocket.ErrBadHandshake)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
	require.Contains(t, string(text), "system:serviceaccount:"+w.namespace+":default")
}
