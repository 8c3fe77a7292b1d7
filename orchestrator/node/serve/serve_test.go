package serve_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
	"github.com/keelson-io/keelson/orchestrator/node/serve"
)

var shared *clustertest.Cluster

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "serve")
	if err != nil {
		panic(err)
	}
	shared, err = clustertest.Run(cluster.Options{HollowNodes: 1, Out: io.Discard, API: cluster.API{DataDir: dir, BindAddress: "127.0.0.1", Logger: zap.NewNop()}})
	if err != nil {
		panic(err)
	}
	code := m.Run()
	shared.Stop()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// world is a node with a server and one pod, known to an API server.
type world struct {
	node, namespace string
	client          *kubernetes.Clientset
	runtime         *runtime
	workers         *workers
	server          *serve.Server
	authority       *pki.Store
	stop            func()
}

const logText = `2026-01-02T15:04:05.000000001Z stdout F one
2026-01-02T15:04:06.000000001Z stderr F two
2026-01-02T15:04:07.000000001Z stdout F three
`

func start(t *testing.T, name string, change ...func(*serve.Config)) *world {
	t.Helper()
	ctx := t.Context()
	w := &world{node: name, client: shared.Client(t, nil), namespace: shared.Namespace(t)}
	var err error
	w.authority, err = pki.Open(filepath.Join(shared.DataDir, "pki"), time.Now)
	require.NoError(t, err)
	cert, err := w.authority.Server("node-"+name, "127.0.0.1")
	require.NoError(t, err)
	pod, err := w.client.CoreV1().Pods(w.namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: name, Containers: []corev1.Container{{Name: "a", Image: "i"}, {Name: "b", Image: "i"}, {Name: "gone", Image: "i"}, {Name: "fails", Image: "i"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.runtime = newRuntime(t, string(pod.UID))
	known := pod.DeepCopy()
	known.Status.ContainerStatuses = []corev1.ContainerStatus{
		{Name: "a"}, {Name: "b", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		{
			Name: "fails", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "test://a"}},
		},
	}
	w.workers = &workers{pod: known, path: filepath.Join(t.TempDir(), "0.log")}
	require.NoError(t, os.WriteFile(w.workers.path, []byte(logText), 0o600))
	require.NoError(t, os.WriteFile(w.workers.path+".before", []byte("2026-01-02T15:04:05.000000001Z stdout F before\n"), 0o600))
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "test_total", Help: "A test."}))
	cfg := serve.Config{
		Node: name, Address: "127.0.0.1:0", Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		ClientCAs: w.authority.Pool(), Client: w.client, Workers: w.workers, Runtime: execs{w.runtime}, Settings: map[string]int{"maxPods": 110},
		Metrics: serve.Metrics{Agent: registry, Resource: registry},
	}
	for _, f := range change {
		f(&cfg)
	}
	w.server, err = serve.New(cfg)
	require.NoError(t, err)
	serving, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Run(serving) }()
	ended := false
	w.stop = func() {
		cancel()
		if !ended {
			ended = true
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(w.stop)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	node, err = w.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}) })
	port := int32(netip.MustParseAddrPort(w.server.Addr().String()).Port())
	patch := fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":%d}}}}`, port)
	_, err = w.client.CoreV1().Nodes().PatchStatus(ctx, node.Name, []byte(patch))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		n, err := w.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
		return err == nil && n.Status.DaemonEndpoints.KubeletEndpoint.Port == port
	}, time.Minute, time.Millisecond)
	return w
}

// request is one for a subresource of the pod.
func (w *world) request(verb, subresource string) *rest.Request {
	return w.client.CoreV1().RESTClient().Verb(verb).Namespace(w.namespace).Resource("pods").Name("p").SubResource(subresource)
}

// executors are the ways in which clients connect.
func executors(t *testing.T, config *rest.Config, r *rest.Request) map[string]remotecommand.Executor {
	t.Helper()
	s, err := remotecommand.NewSPDYExecutor(config, "POST", r.URL())
	require.NoError(t, err)
	ws, err := remotecommand.NewWebSocketExecutor(config, "GET", r.URL().String())
	require.NoError(t, err)
	return map[string]remotecommand.Executor{"SPDY": s, "WebSocket": ws}
}

// sizes is a terminal whose size is told once.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	v, ok := <-s
	if !ok {
		return nil
	}
	return &v
}

func TestExec(t *testing.T) {
	w := start(t, "exec")
	for name, c := range map[string]struct {
		o        corev1.PodExecOptions
		in       string
		out, err string
		code     int
	}{
		"echo": {o: corev1.PodExecOptions{Command: []string{"echo", "a b", "&c"}}, out: "a b &c\n"},
		"cat":  {o: corev1.PodExecOptions{Command: []string{"cat"}, Stdin: true}, in: strings.Repeat("0123456789", 50_000), out: strings.Repeat("0123456789", 50_000)},
		"both": {o: corev1.PodExecOptions{Command: []string{"both"}}, out: "out", err: "err"},
		"exit": {o: corev1.PodExecOptions{Command: []string{"exit"}}, code: 7},
		"size": {o: corev1.PodExecOptions{Command: []string{"size"}, TTY: true, Stdin: true}, out: "true 80x25"},
	} {
		c.o.Container, c.o.Stdout, c.o.Stderr = "a", true, !c.o.TTY
		for protocol, e := range executors(t, shared.Config, w.request("POST", "exec").VersionedParams(&c.o, scheme.ParameterCodec)) {
			t.Run(name+" "+protocol, func(t *testing.T) {
				var out, errs bytes.Buffer
				o := remotecommand.StreamOptions{Stdout: &out, Tty: c.o.TTY}
				if c.o.Stderr {
					o.Stderr = &errs
				}
				if c.o.Stdin {
					o.Stdin = strings.NewReader(c.in)
				}
				if c.o.TTY {
					s := make(sizes, 1)
					s <- remotecommand.TerminalSize{Width: 80, Height: 25}
					close(s)
					o.TerminalSizeQueue = s
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := e.StreamWithContext(ctx, o)
				var exit utilexec.CodeExitError
				switch {
				case c.code == 0:
					require.NoError(t, err)
				default:
					require.ErrorAs(t, err, &exit)
					require.Equal(t, c.code, exit.Code)
				}
				require.Equal(t, c.out, out.String())
				require.Equal(t, c.err, errs.String())
			})
		}
	}
	for protocol, e := range executors(t, shared.Config, w.request("POST", "exec").Param("container", "b").Param("command", "x").Param("stdout", "true")) {
		err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
		require.ErrorContains(t, err, `container "b" in pod "p" is waiting to start: ContainerCreating`, protocol)
	}
}

func TestAttach(t *testing.T) {
	w := start(t, "attach")
	o := &corev1.PodAttachOptions{Container: "a", Stdin: true, Stdout: true, Stderr: true}
	for protocol, e := range executors(t, shared.Config, w.request("POST", "attach").VersionedParams(o, scheme.ParameterCodec)) {
		var out bytes.Buffer
		require.NoError(t, e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: &out, Stderr: io.Discard}), protocol)
		require.Equal(t, "you said hello\n", out.String(), protocol)
	}
}

func TestPortForward(t *testing.T) {
	w := start(t, "forward")
	url := w.request("POST", "portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(shared.Config)
	require.NoError(t, err)
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(url, shared.Config)
	require.NoError(t, err)
	for protocol, dialer := range map[string]interface {
		Dial(protocols ...string) (conn portforwardConnection, protocol string, err error)
	}{"SPDY": spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", url), "WebSocket": tunnel} {
		t.Run(protocol, func(t *testing.T) {
			stop, ready := make(chan struct{}), make(chan struct{})
			var errs bytes.Buffer
			f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:80", "0:81"}, stop, ready, io.Discard, &errs)
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() { done <- f.ForwardPorts() }()
			<-ready
			ports, err := f.GetPorts()
			require.NoError(t, err)
			for _, p := range ports {
				require.Equal(t, fmt.Sprintf("sandbox %d\nhello", p.Remote), say(t, p.Local, "hello"))
			}
			close(stop)
			require.NoError(t, <-done)
		})
	}
}

// read reads a whole log. Unlike DoRaw it knows what went wrong.
func read(t *testing.T, r *rest.Request) (string, error) {
	t.Helper()
	stream, err := r.Stream(t.Context())
	if err != nil {
		return "", err
	}
	defer stream.Close()
	b, err := io.ReadAll(stream)
	return string(b), err
}

func TestLogs(t *testing.T) {
	w := start(t, "logs")
	get := func(change func(*corev1.PodLogOptions)) (string, error) {
		o := &corev1.PodLogOptions{Container: "a"}
		change(o)
		return read(t, w.client.CoreV1().Pods(w.namespace).GetLogs("p", o))
	}
	one, ten := int64(1), int64(6)
	for name, c := range map[string]struct {
		change func(*corev1.PodLogOptions)
		want   string
	}{
		"all":      {func(*corev1.PodLogOptions) {}, "one\ntwo\nthree\n"},
		"tail":     {func(o *corev1.PodLogOptions) { o.TailLines = &one }, "three\n"},
		"limit":    {func(o *corev1.PodLogOptions) { o.LimitBytes = &ten }, "one\ntw"},
		"previous": {func(o *corev1.PodLogOptions) { o.Previous = true }, "before\n"},
		"fails":    {func(o *corev1.PodLogOptions) { o.Container, o.Previous = "fails", true }, "one\ntwo\nthree\n"},
		"stream":   {func(o *corev1.PodLogOptions) { s := corev1.LogStreamStderr; o.Stream = &s }, "two\n"},
		"times":    {func(o *corev1.PodLogOptions) { o.TailLines, o.Timestamps = &one, true }, "2026-01-02T15:04:07.000000001Z three\n"},
		"insecure": {func(o *corev1.PodLogOptions) { o.InsecureSkipTLSVerifyBackend = true }, "one\ntwo\nthree\n"},
		"since": {func(o *corev1.PodLogOptions) {
			o.SinceTime = &metav1.Time{Time: time.Date(2026, 1, 2, 15, 4, 6, 0, time.UTC)}
		}, "two\nthree\n"},
		"since seconds": {func(o *corev1.PodLogOptions) { o.SinceSeconds = &one }, ""},
	} {
		out, err := get(c.change)
		require.NoError(t, err, name)
		require.Equal(t, c.want, out, name)
	}
	for text, change := range map[string]func(*corev1.PodLogOptions){
		"a container name must be specified for pod p, choose one of: [a b gone fails]": func(o *corev1.PodLogOptions) { o.Container = "" },
		"container x is not valid for pod p":                                            func(o *corev1.PodLogOptions) { o.Container = "x" },
		`container "b" in pod "p" is waiting to start: ContainerCreating`:               func(o *corev1.PodLogOptions) { o.Container = "b" },
		`previous terminated container "b" in pod "p" not found`:                        func(o *corev1.PodLogOptions) { o.Container, o.Previous = "b", true },
		"the log of container \"gone\" is not there":                                    func(o *corev1.PodLogOptions) { o.Container = "gone" },
		"must be greater than or equal to 0":                                            func(o *corev1.PodLogOptions) { n := int64(-1); o.TailLines = &n },
		"at most one of":                                                                func(o *corev1.PodLogOptions) { o.SinceSeconds, o.SinceTime = &one, &metav1.Time{Time: time.Now()} },
	} {
		_, err := get(change)
		require.ErrorContains(t, err, text)
	}

	// What is written later comes while it is followed, and nothing after the container has ended.
	stream, err := w.client.CoreV1().Pods(w.namespace).GetLogs("p", &corev1.PodLogOptions{Container: "a", Follow: true, TailLines: &one}).Stream(t.Context())
	require.NoError(t, err)
	defer stream.Close()
	buf := make([]byte, 100)
	n, err := stream.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "three\n", string(buf[:n]))
	f, err := os.OpenFile(w.workers.path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("2026-01-02T15:04:08.000000001Z stdout F four\n")
	require.NoError(t, err)
	n, err = stream.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "four\n", string(buf[:n]))
	w.runtime.running.Store(false)
	rest, err := io.ReadAll(stream)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.NoError(t, f.Close())
}

// A node that simulates its pods serves nothing.
func TestHollow(t *testing.T) {
	c, ns := shared.Client(t, nil), shared.Namespace(t)
	_, err := c.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "hollow-0", Containers: []corev1.Container{{Name: "a", Image: "i"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = read(t, c.CoreV1().Pods(ns).GetLogs("p", &corev1.PodLogOptions{}))
	require.True(t, apierrors.IsServiceUnavailable(err))
	require.ErrorContains(t, err, "node hollow-0 serves no streams")
}

func TestNodeProxy(t *testing.T) {
	w := start(t, "proxied")
	get := func(path string) (string, error) {
		b, err := w.client.CoreV1().RESTClient().Get().Resource("nodes").Name(w.node).SubResource("proxy").Suffix(path).DoRaw(t.Context())
		return string(b), err
	}
	for path, want := range map[string]string{
		"healthz": "ok", "metrics": "test_total 0", "metrics/resource": "test_total 0", "configz": `{"kubeletconfig":{"maxPods":110}}`,
		"pods": `"kind":"PodList"`, "runningpods": `"containers":[{"name":"a","image":"i"`, "containerLogs/" + w.namespace + "/p/a": "one\ntwo\nthree\n",
	} {
		out, err := get(path)
		require.NoError(t, err, path)
		require.Contains(t, out, want, path)
	}
	for _, path := range []string{"checkpoint/default/p/a", "metrics/cadvisor", "stats/summary"} {
		_, err := get(path)
		require.True(t, apierrors.IsNotFound(err), "%s: %v", path, err)
	}
	post := func(cmd string) (string, error) {
		b, err := w.client.CoreV1().RESTClient().Post().Resource("nodes").Name(w.node).SubResource("proxy").
			Suffix("run", w.namespace, "p", "a").Param("cmd", cmd).DoRaw(t.Context())
		return string(b), err
	}
	out, err := post("ls -l")
	require.NoError(t, err)
	require.Equal(t, "ls|-l", out)
	out, err = post("fail")
	require.Error(t, err)
	require.Contains(t, out, "command exited with 3")
}

// A certificate that the cluster did not sign is not accepted, and neither is one for another address.
func TestUntrusted(t *testing.T) {
	foreign, err := pki.Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	cert, err := foreign.Server("x", "127.0.0.1")
	require.NoError(t, err)
	w := start(t, "untrusted", func(c *serve.Config) {
		c.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
	})
	_, err = read(t, w.client.CoreV1().Pods(w.namespace).GetLogs("p", &corev1.PodLogOptions{Container: "a"}))
	require.ErrorContains(t, err, "certificate signed by unknown authority")
	out, err := w.client.CoreV1().Pods(w.namespace).GetLogs("p", &corev1.PodLogOptions{Container: "a", InsecureSkipTLSVerifyBackend: true}).DoRaw(t.Context())
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\nthree\n", string(out))
	err = executors(t, shared.Config, w.request("POST", "exec").Param("container", "a").Param("command", "x").Param("stdout", "true"))["SPDY"].
		StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
	require.ErrorContains(t, err, "error dialing backend")
}

// Connections end with the server.
func TestStop(t *testing.T) {
	w := start(t, "stops")
	e := executors(t, shared.Config, w.request("POST", "exec").Param("container", "a").Param("command", "sleep").Param("stdout", "true"))["SPDY"]
	begun, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: first{begun}}) }()
	<-begun
	w.stop()
	<-done
}

// first tells of the first write.
type first struct{ c chan struct{} }

func (f first) Write(p []byte) (int, error) {
	if len(p) > 0 {
		close(f.c)
	}
	return len(p), nil
}

func roots(t *testing.T) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	require.True(t, p.AppendCertsFromPEM(shared.Config.CAData))
	return p
}
