package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask makes one run against a port of this machine.
func ask(t *testing.T, spec corev1.Probe, ports ...corev1.ContainerPort) outcome {
	t.Helper()
	p, c := podWith(corev1.Container{Ports: ports, Env: []corev1.EnvVar{{Name: "WORD", Value: "hello"}}})
	prober := New(Config{Runtime: &commands{exit: map[string]int32{"false": 1}}})
	if spec.TimeoutSeconds == 0 {
		spec.TimeoutSeconds = 5
	}
	return prober.ask(context.Background(), attempt{check: &check{spec: &spec}, pod: p, container: c, id: "c1", ip: "127.0.0.1"})
}

func portFrom(t *testing.T, raw string) int {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	code := func(n int) http.HandlerFunc { return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) } }
	mux.Handle("/ok", code(200))
	mux.Handle("/created", code(201))
	mux.Handle("/bad", code(400))
	mux.Handle("/broken", code(503))
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/broken", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://example.invalid/", http.StatusFound)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s|%s|%s", r.Host, r.UserAgent(), strings.Join(r.Header["Accept"], ","), strings.Join(r.Header["X-A"], ","), r.URL.RawQuery)
	})
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1<<20)) })
	stop := make(chan struct{})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-stop:
		}
	})
	plain := httptest.NewServer(mux)
	defer plain.Close()
	secure := httptest.NewTLSServer(mux)
	defer secure.Close()
	defer close(stop)
	port := portFrom(t, plain.URL)

	get := func(path string, headers ...corev1.HTTPHeader) outcome {
		return ask(t, corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt(port), HTTPHeaders: headers}}})
	}
	for path, want := range map[string]outcome{
		"/ok":      {success, ""},
		"ok":       {success, ""},
		"/created": {success, ""},
		"/bad":     {failure, "HTTP probe failed with statuscode: 400"},
		"/broken":  {failure, "HTTP probe failed with statuscode: 503"},
		"/moved":   {failure, "HTTP probe failed with statuscode: 503"},
	} {
		if got := get(path); got != want {
			t.Errorf("%s: got %+v", path, got)
		}
	}
	if got := get("/away"); got.state != warning || !strings.HasPrefix(got.message, "Probe terminated redirects, Response body:") {
		t.Errorf("a redirect to another host: %+v", got)
	}
	if got := get("/round"); got.state != failure || !strings.Contains(got.message, "stopped after 10 redirects") {
		t.Errorf("redirects in a circle: %+v", got)
	}
	if got := get("/long"); got.state != success || len(got.message) != maxOutput {
		t.Errorf("a long body: %v, %d bytes", got.state, len(got.message))
	}
	if got, want := get("/echo?q=1"), fmt.Sprintf("127.0.0.1:%d|kube-probe/1.37|*/*||q=1", port); got.message != want {
		t.Errorf("got %q, want %q", got.message, want)
	}
	got := get("/echo", corev1.HTTPHeader{Name: "Host", Value: "web.example"}, corev1.HTTPHeader{Name: "user-agent", Value: "mine"}, corev1.HTTPHeader{Name: "Accept", Value: ""},
		corev1.HTTPHeader{Name: "X-A", Value: "1"}, corev1.HTTPHeader{Name: "X-A", Value: "2"})
	if want := "web.example|mine||1,2|"; got.message != want {
		t.Errorf("got %q, want %q", got.message, want)
	}
	slow := corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/hang", Port: intstr.FromInt(port)}}}
	if got := ask(t, slow); got.state != failure || !strings.Contains(got.message, "Client.Timeout exceeded") {
		t.Errorf("a server that hangs: %+v", got)
	}
	named := corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ok", Scheme: corev1.URISchemeHTTPS, Port: intstr.FromString("web"), Host: "localhost"}}}
	if got := ask(t, named, corev1.ContainerPort{Name: "web", ContainerPort: int32(portFrom(t, secure.URL))}); got.state != success {
		t.Errorf("https by the name of a port: %+v", got)
	}
	if got := ask(t, named); got.known() {
		t.Errorf("a port that is not there: %+v", got)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spec := corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(l.Addr().(*net.TCPAddr).Port)}}}
	if got := ask(t, spec); got.state != success {
		t.Errorf("got %+v", got)
	}
	_ = l.Close()
	if got := ask(t, spec); got.state != failure || !strings.Contains(got.message, "connection refused") {
		t.Errorf("closed: got %+v", got)
	}
}

func TestGRPC(t *testing.T) {
	serve := func(register func(*grpc.Server)) int32 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		register(s)
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		t.Cleanup(func() { s.Stop(); <-done })
		return int32(l.Addr().(*net.TCPAddr).Port)
	}
	status := health.NewServer()
	status.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	port := serve(func(s *grpc.Server) { healthpb.RegisterHealthServer(s, status) })
	bare := serve(func(*grpc.Server) {})
	mute, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for _, c := range []struct {
		port    int32
		service string
		state   state
		message string
	}{
		{port, "", success, "service healthy"},
		{port, "sick", failure, `service unhealthy (responded with "NOT_SERVING")`},
		{port, "gone", failure, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
		{bare, "", failure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): "},
		{int32(mute.Addr().(*net.TCPAddr).Port), "", failure, "timeout: failed to connect service"},
	} {
		spec := corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: c.port, Service: ptr.To(c.service)}}}
		if got := ask(t, spec); got.state != c.state || !strings.HasPrefix(got.message, c.message) {
			t.Errorf("%+v: got %+v", c, got)
		}
	}
}

func TestExec(t *testing.T) {
	prober := &commands{exit: map[string]int32{}}
	p, c := podWith(corev1.Container{Env: []corev1.EnvVar{{Name: "WORD", Value: "hello"}, {Name: "FROM", ValueFrom: &corev1.EnvVarSource{}}}})
	spec := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"say", "$(WORD)", "$(FROM)"}}}}
	got := New(Config{Runtime: prober}).ask(context.Background(), attempt{check: &check{spec: spec}, pod: p, container: c, id: "c1"})
	if want := (outcome{success, "out of say"}); got != want || prober.ran[0] != "c1 say hello $(FROM)" {
		t.Errorf("got %+v, ran %q", got, prober.ran)
	}
}

func TestPorts(t *testing.T) {
	c := &corev1.Container{Name: "main", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}
	for port, want := range map[intstr.IntOrString]int{intstr.FromInt(80): 80, intstr.FromString("web"): 8080, intstr.FromString("99"): 99, intstr.FromInt(0): 0, intstr.FromInt(70000): 0, intstr.FromString("no"): 0} {
		got, err := portOf(port, c)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%v: got %d, %v", port, got, err)
		}
	}
}

func TestNoHandler(t *testing.T) {
	if got := ask(t, corev1.Probe{}); got.known() || got.message != "missing probe handler for web:main" {
		t.Errorf("got %+v", got)
	}
	if d := (&check{spec: &corev1.Probe{}}).period(); d != 10*time.Second {
		t.Errorf("a period that is not set: %v", d)
	}
}
