//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// maxOutput is how much of each output ExecSync answers with, in bytes. What comes after is read and thrown away.
const maxOutput = 16 << 20

// streams runs commands in containers and connects to what runs.
type streams struct {
	m      *machine
	tasks  *containers
	server streaming.Server
	http   *http.Server
	served chan struct{} // closed when http has ended
}

// newStreams listens for exec, attach and port-forward.
func newStreams(m *machine, address string) (*streams, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("runtime: streams: %w", err)
	}
	s := &streams{m: m, tasks: &containers{m: m}, served: make(chan struct{})}
	cfg := streaming.DefaultConfig
	cfg.BaseURL = &url.URL{Scheme: "http", Host: l.Addr().String()}
	if s.server, err = streaming.NewServer(cfg, s.backend()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s.http = &http.Server{Handler: s.server, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(l) // ends with close
	}()
	return s, nil
}

// close hangs up on everyone.
func (s *streams) close() error {
	err := s.http.Close()
	<-s.served
	return err
}

// ExecSync runs a command and answers with its output and exit code.
func (s *streams) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	c, client, err := s.tasks.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if len(req.GetCmd()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "runtime: no command")
	}
	run := ctx
	if req.GetTimeout() > 0 {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeout(ctx, time.Duration(req.Timeout)*time.Second)
		defer cancel()
	}
	var stdout, stderr bounded
	code, err := client.Exec(run, c.id, shim.ExecSpec{Args: req.Cmd}, shim.Streams{Stdout: &stdout, Stderr: &stderr})
	switch {
	case err == nil:
		return &runtimeapi.ExecSyncResponse{Stdout: stdout.data, Stderr: stderr.data, ExitCode: int32(code)}, nil
	case run.Err() != nil && ctx.Err() == nil:
		return nil, status.Errorf(codes.DeadlineExceeded, "runtime: container %s: %q did not end within %d seconds", c.id, req.Cmd, req.Timeout)
	}
	return nil, fmt.Errorf("runtime: container %s: %w", c.id, err)
}

// bounded keeps what is written first.
type bounded struct{ data []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), maxOutput-len(b.data))]...)
	return len(p), nil
}

// Exec answers where a command can be run with streams.
func (s *streams) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	c, _, err := s.tasks.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	req.ContainerId = c.id
	return s.server.GetExec(req)
}

// Attach answers where the streams of a container's process are.
func (s *streams) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	c, _, err := s.tasks.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	req.ContainerId = c.id
	return s.server.GetAttach(req)
}

// PortForward answers where ports of a sandbox can be reached.
func (s *streams) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	pod, err := s.m.table.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !pod.record().ready() {
		return nil, status.Errorf(codes.FailedPrecondition, "runtime: sandbox %s is not ready", pod.id)
	}
	req.PodSandboxId = pod.id
	return s.server.GetPortForward(req)
}

// backend is what the streaming server calls.
func (s *streams) backend() streaming.Runtime { return streamBackend{s} }

type streamBackend struct{ s *streams }

// Exec runs a command with streams. An exit code that is not 0 is an error that says which.
func (b streamBackend) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, client, err := b.s.tasks.running(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := client.Exec(ctx, c.id, shim.ExecSpec{Args: cmd, Terminal: tty}, shimStreamsOf(ctx, in, out, errs, resize))
	if err == nil && code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("exit code %d", code), Code: code}
	}
	return err
}

// Attach connects to a container's process until that ends or the client leaves.
func (b streamBackend) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	c, client, err := b.s.tasks.running(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return client.Attach(ctx, c.id, shimStreamsOf(ctx, in, out, errs, resize))
}

// shimStreamsOf hands streams on to a shim.
func shimStreamsOf(ctx context.Context, in io.Reader, out, errs io.WriteCloser, resize <-chan remotecommand.TerminalSize) shim.Streams {
	var st shim.Streams
	if in != nil {
		st.Stdin = in
	}
	if out != nil {
		st.Stdout = out
	}
	if errs != nil {
		st.Stderr = errs
	}
	if resize == nil {
		return st
	}
	sizes := make(chan shim.Size)
	st.Resize = sizes
	go func() {
		defer close(sizes)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-resize:
				if !ok {
					return
				}
				select {
				case <-ctx.Done():
					return
				case sizes <- shim.Size{Width: size.Width, Height: size.Height}:
				}
			}
		}
	}()
	return st
}

// PortForward connects a stream with a port of a sandbox's loopback.
func (b streamBackend) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	pod, err := b.s.m.table.sandbox(id)
	if err != nil {
		return err
	}
	rec := pod.record()
	if !rec.ready() {
		return status.Errorf(codes.FailedPrecondition, "runtime: sandbox %s is not ready", id)
	}
	conn, err := dialIn(ctx, rec.NetNS, port)
	if err != nil {
		return fmt.Errorf("runtime: port %d of sandbox %s: %w", port, id, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	if err := relay(conn, stream); err != nil && ctx.Err() == nil {
		return fmt.Errorf("runtime: port %d of sandbox %s: %w", port, id, err)
	}
	return nil
}

// linger is how long a pod may say nothing once the client has said all: whether the client still listens cannot be seen.
const linger = 30 * time.Second

// relay copies both ways until the pod has said all.
func relay(conn net.Conn, stream io.ReadWriter) error {
	var said atomic.Bool // by the client
	go func() {
		_, _ = io.Copy(conn, stream)
		said.Store(true)
		_ = conn.SetReadDeadline(time.Now().Add(linger))
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := stream.Write(buf[:n]); err != nil {
				return err
			}
			if said.Load() {
				_ = conn.SetReadDeadline(time.Now().Add(linger))
			}
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		}
	}
}

// dialIn connects to a port of the loopback inside a network namespace, "" for the host's. Its sockets stay in it.
func dialIn(ctx context.Context, netns string, port int32) (conn net.Conn, err error) {
	dial := func() error {
		var d net.Dialer
		for _, host := range []string{"127.0.0.1", "::1"} {
			if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(port))); err == nil {
				return nil
			}
		}
		return err
	}
	if netns == "" {
		return conn, dial()
	}
	done := make(chan error, 1)
	go func() { done <- inside(netns, dial) }()
	err = <-done
	return conn, err
}

// inside runs f on a thread that is in a network namespace, and takes the thread back. One that cannot be taken back ends
// with its goroutine, which must be that of the caller alone.
func inside(netns string, f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("the host's namespace: %w", err)
	}
	defer func() { _ = unix.Close(home) }()
	there, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer func() { _ = unix.Close(there) }()
		err = unix.Setns(there, unix.CLONE_NEWNET)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("namespace %s: %w", netns, err)
	}
	err = f()
	if unix.Setns(home, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
