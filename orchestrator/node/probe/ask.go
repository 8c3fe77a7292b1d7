package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/environ/expansion"
)

// state is what a run found.
type state int

const (
	unknown state = iota
	success
	warning // counts as success
	failure
)

type outcome struct {
	state   state
	message string
}

func (o outcome) known() bool { return o.state != unknown }
func (o outcome) ok() bool    { return o.state == success || o.state == warning }

const (
	userAgent    = "kube-probe/1.37"
	maxOutput    = 10 << 10 // bytes of a body or of what a command writes that are read
	maxRedirects = 10
	// rpcSlack is how much longer the call to the runtime may take than the command that it runs.
	rpcSlack = 10 * time.Second
)

// ask makes one run.
func (p *Prober) ask(ctx context.Context, a attempt) outcome {
	spec, timeout := a.spec, a.timeout()
	switch {
	case spec.Exec != nil:
		return p.exec(ctx, a, timeout)
	case spec.HTTPGet != nil:
		return a.http(ctx, spec.HTTPGet, timeout)
	case spec.TCPSocket != nil:
		port, err := portOf(spec.TCPSocket.Port, a.container)
		if err != nil {
			return outcome{unknown, err.Error()}
		}
		return tcp(ctx, orDefault(spec.TCPSocket.Host, a.ip), port, timeout)
	case spec.GRPC != nil:
		service := ""
		if spec.GRPC.Service != nil {
			service = *spec.GRPC.Service
		}
		return grpcHealth(ctx, net.JoinHostPort(a.ip, strconv.Itoa(int(spec.GRPC.Port))), service, timeout)
	}
	return outcome{unknown, "missing probe handler for " + a.pod.Name + ":" + a.container.Name}
}

func orDefault(s, unset string) string {
	if s == "" {
		return unset
	}
	return s
}

// portOf finds the number of a port, by the name of one of the container's if need be.
func portOf(port intstr.IntOrString, c *corev1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		named := false
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				n, named = int(p.ContainerPort), true
			}
		}
		if _, err := strconv.Atoi(port.StrVal); err != nil && !named {
			return 0, fmt.Errorf("couldn't find port: %v for container %s", port.StrVal, c.Name)
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

// exec runs a command in the container, which may refer to those of its variables that stand in its spec.
func (p *Prober) exec(ctx context.Context, a attempt, timeout time.Duration) outcome {
	command := expansion.All(a.spec.Exec.Command, expansion.Static(a.container.Env))
	ctx, cancel := context.WithTimeout(ctx, timeout+rpcSlack)
	defer cancel()
	resp, err := p.cfg.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: a.id, Cmd: command, Timeout: int64(timeout / time.Second)})
	switch {
	case status.Code(err) == codes.DeadlineExceeded:
		return outcome{failure, fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(command, " "), timeout)}
	case err != nil:
		return outcome{unknown, err.Error()}
	}
	text := string(append(resp.Stdout, resp.Stderr...))
	text = text[:min(len(text), maxOutput)]
	if resp.ExitCode != 0 {
		return outcome{failure, text}
	}
	return outcome{success, text}
}

// dialer makes connections that leave nothing behind on the node when they are closed.
func dialer() *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
		})
	}}
}

func tcp(ctx context.Context, host string, port int, timeout time.Duration) outcome {
	d := dialer()
	d.Timeout = timeout
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return outcome{failure, err.Error()}
	}
	_ = conn.Close()
	return outcome{state: success}
}

func (a attempt) http(ctx context.Context, get *corev1.HTTPGetAction, timeout time.Duration) outcome {
	port, err := portOf(get.Port, a.container)
	if err != nil {
		return outcome{unknown, err.Error()}
	}
	u, err := url.Parse(get.Path)
	if err != nil { // a path that is no URL is taken as it is
		u = &url.URL{Path: get.Path}
	}
	u.Scheme = strings.ToLower(orDefault(string(get.Scheme), "http"))
	u.Host = net.JoinHostPort(orDefault(get.Host, a.ip), strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return outcome{failure, err.Error()}
	}
	setHeaders(req, get.HTTPHeaders)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a probe asks whether it answers, not who does
		DialContext:     dialer().DialContext, DisableKeepAlives: true, DisableCompression: true, TLSHandshakeTimeout: timeout,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: timeout, Transport: transport, CheckRedirect: localOnly}
	resp, err := client.Do(req)
	if err != nil {
		return outcome{failure, err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	switch {
	case err != nil:
		return outcome{failure, err.Error()}
	case resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest:
		return outcome{failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)}
	case resp.StatusCode >= http.StatusMultipleChoices:
		return outcome{warning, "Probe terminated redirects, Response body: " + string(body)}
	}
	return outcome{success, string(body)}
}

// setHeaders puts in those of the probe. An empty Accept or User-Agent means none at all.
func setHeaders(req *http.Request, headers []corev1.HTTPHeader) {
	for _, h := range headers {
		req.Header.Add(h.Name, h.Value)
	}
	for name, unset := range map[string]string{"User-Agent": userAgent, "Accept": "*/*"} {
		switch values, ok := req.Header[name]; {
		case !ok:
			req.Header.Set(name, unset)
		case values[0] == "" && name == "Accept":
			req.Header.Del(name)
		}
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
}

// localOnly follows redirects to the same host only: the node does not fetch what a container points it to.
func localOnly(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// grpcHealth asks the gRPC health service.
func grpcHealth(ctx context.Context, address, service string, timeout time.Duration) outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithUserAgent(userAgent), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return outcome{failure, fmt.Sprintf("error: failed to connect service at %q: %+v", address, err)}
	}
	defer func() { _ = conn.Close() }()
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if !conn.WaitForStateChange(ctx, s) {
			return outcome{failure, fmt.Sprintf("timeout: failed to connect service %q within %v: %+v", address, timeout, ctx.Err())}
		}
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return outcome{failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
	case codes.DeadlineExceeded:
		return outcome{failure, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)}
	default:
		return outcome{failure, fmt.Sprintf("error: health rpc probe failed: %+v", err)}
	}
	if s := resp.GetStatus(); s != healthpb.HealthCheckResponse_SERVING {
		return outcome{failure, fmt.Sprintf("service unhealthy (responded with %q)", s)}
	}
	return outcome{success, "service healthy"}
}
