//go:build linux

package crisuite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

var streamCases = map[string]func(*testing.T, *suite){
	"stream-execsync":    streamExecSync,
	"stream-exec":        streamExec,
	"stream-tty":         streamTTY,
	"stream-attach":      streamAttach,
	"stream-portforward": streamPortForward,
	"stream-refused":     streamRefused,
}

// scan reads the number of a line of tick.
func scan(t testing.TB, text string, n *int) {
	t.Helper()
	if _, err := fmt.Sscanf(text, "tick %d", n); err != nil {
		t.Fatal(err)
	}
}

func streamExecSync(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"pause"}, s.image("named"), func(c *runtimeapi.ContainerConfig) {
		c.Envs = []*runtimeapi.KeyValue{{Key: "OF", Value: []byte("the container")}}
	})
	out := s.exec(t, id, "all", "out", "to stdout", "then", "err", "to stderr", "then", "exit", "5")
	equal(t, "stdout", string(out.Stdout), "to stdout\n")
	equal(t, "stderr", string(out.Stderr), "to stderr\n")
	equal(t, "exit code", out.ExitCode, 5)
	f := s.factsOf(t, id)
	equal(t, "variable", f.Getenv("OF"), "the container")
	equal(t, "directory", f.Cwd, "/made/by/runtime")
	equal(t, "user", fmt.Sprint(f.UID, f.GID), "1001 1002")
	big, err := s.rt.ExecSync(ctx(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/box", "spam", fmt.Sprint(8 << 20)}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "bytes of a long output", len(big.Stdout), 8<<20)
	before := time.Now()
	_, err = s.rt.ExecSync(ctx(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/box", "sleep", "1h"}, Timeout: 1})
	equal(t, "code", status.Code(err), codes.DeadlineExceeded)
	if took := time.Since(before); took < time.Second {
		t.Errorf("a timeout of 1 s was over after %v", took)
	}
	eventually(t, "what took too long is gone", func() bool {
		return !strings.Contains(strings.Join(s.factsOf(t, id).Processes, "\n"), "sleep 1h")
	})
	if _, err := s.rt.ExecSync(ctx(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/none-such"}}); err == nil {
		t.Error("a command that is none was run")
	}
	equal(t, "the container goes on", s.status(t, id).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

// executors of both protocols for an address that a runtime gave.
func executors(t testing.TB, get func() string) map[string]remotecommand.Executor {
	t.Helper()
	out := map[string]remotecommand.Executor{}
	for name, make := range map[string]func(*url.URL) (remotecommand.Executor, error){
		"SPDY": func(u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
		},
		"WebSocket": func(u *url.URL) (remotecommand.Executor, error) { // runtimes know no v5
			return remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, "GET", u.String(), "v4.channel.k8s.io")
		},
	} {
		u, err := url.Parse(get())
		if err != nil {
			t.Fatal(err)
		}
		if out[name], err = make(u); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func streamExec(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"pause"})
	get := func(stdin bool, args ...string) func() string {
		return func() string {
			out, err := s.rt.Exec(ctx(t), &runtimeapi.ExecRequest{ContainerId: id, Cmd: append([]string{"/box"}, args...), Stdin: stdin, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			return out.Url
		}
	}
	for name, e := range executors(t, get(true, "take", "1100000")) {
		var out bytes.Buffer
		in := strings.Repeat("0123456789\n", 100000)
		if err := e.StreamWithContext(ctx(t), remotecommand.StreamOptions{Stdin: strings.NewReader(in), Stdout: &out, Stderr: io.Discard}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out.String() != in {
			t.Errorf("%s: %d bytes came back of %d", name, out.Len(), len(in))
		}
	}
	for name, e := range executors(t, get(false, "all", "out", "x", "then", "err", "y", "then", "exit", "9")) {
		var out, errs bytes.Buffer
		err := e.StreamWithContext(ctx(t), remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
		var code utilexec.ExitError
		if !errors.As(err, &code) || code.ExitStatus() != 9 {
			t.Errorf("%s: %v, want exit code 9", name, err)
		}
		equal(t, name+": stdout", out.String(), "x\n")
		equal(t, name+": stderr", errs.String(), "y\n")
	}
}

// buffer is written and read by different goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sizes is a queue of terminal sizes.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func streamTTY(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"pause"})
	get := func() string {
		out, err := s.rt.Exec(ctx(t), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"/box", "tty"}, Stdin: true, Stdout: true, Tty: true})
		if err != nil {
			t.Fatal(err)
		}
		return out.Url
	}
	for name, e := range executors(t, get) {
		var out buffer
		in, input := io.Pipe()
		q := make(sizes, 2)
		q <- remotecommand.TerminalSize{Width: 123, Height: 45}
		done := make(chan error, 1)
		c := ctx(t)
		go func() {
			done <- e.StreamWithContext(c, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: q})
		}()
		eventually(t, name+": the first size", func() bool { return strings.Contains(out.String(), "size 123 45 true") })
		q <- remotecommand.TerminalSize{Width: 80, Height: 24}
		eventually(t, name+": the second size", func() bool { return strings.Contains(out.String(), "size 80 24 true") })
		close(q)
		if _, err := input.Write([]byte{4}); err != nil { // the end of the input, as a terminal says it
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = input.Close()
	}
}

func streamAttach(t *testing.T, s *suite) {
	p := s.pod(t)
	for i, name := range []string{"SPDY", "WebSocket"} {
		id := s.start(t, p, []string{"lines", "got"}, func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
		e := executors(t, func() string {
			out, err := s.rt.Attach(ctx(t), &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			return out.Url
		})[name]
		var out buffer
		in, input := io.Pipe()
		done := make(chan error, 1)
		c, leave := context.WithCancel(ctx(t))
		go func() {
			done <- e.StreamWithContext(c, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Stderr: io.Discard})
		}()
		if _, err := fmt.Fprintf(input, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+": the answer", func() bool { return strings.Contains(out.String(), fmt.Sprintf("got line %d\n", i)) })
		_ = input.Close()
		if name == "WebSocket" { // v4 cannot tell that the input has ended, so the client leaves
			leave()
		}
		if err := <-done; err != nil && c.Err() == nil {
			t.Errorf("%s: %v", name, err)
		}
		leave()
		st := s.wait(t, id)
		equal(t, name+": exit code", st.ExitCode, 0)
		s.says(t, id, fmt.Sprintf("got line %d", i))
		s.says(t, id, "end")
	}
}

func streamPortForward(t *testing.T, s *suite) {
	p := s.pod(t)
	id := s.start(t, p, []string{"serve", "7777"})
	s.says(t, id, "ready")
	out, err := s.rt.PortForward(ctx(t), &runtimeapi.PortForwardRequest{PodSandboxId: p.id, Port: []int32{7777}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(out.Url)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forward, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"0:7777"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forward.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := forward.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		got, err := converse(ctx(t), ports[0].Local, fmt.Sprintf("hello %d", i))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "the answer", got, fmt.Sprintf("echo hello %d\n", i))
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// streamRefused: what does not run takes no streams.
func streamRefused(t *testing.T, s *suite) {
	p := s.pod(t)
	id, err := s.create(t, p, s.config([]string{"pause"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.rt.ExecSync(ctx(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/box"}}); err == nil {
		t.Error("a command was run in a container that was not started")
	}
	if _, err := s.rt.Exec(ctx(t), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"/box"}, Stdout: true}); err == nil {
		t.Error("streams were given for a container that was not started")
	}
	if _, err := s.rt.Attach(ctx(t), &runtimeapi.AttachRequest{ContainerId: id, Stdout: true}); err == nil {
		t.Error("a container that was not started was attached to")
	}
	_, err = s.rt.ExecSync(ctx(t), &runtimeapi.ExecSyncRequest{ContainerId: "none", Cmd: []string{"/box"}})
	equal(t, "code", status.Code(err), codes.NotFound)
	running := s.start(t, p, []string{"pause"})
	for name, req := range map[string]*runtimeapi.ExecRequest{
		"no stream":           {ContainerId: running, Cmd: []string{"/box"}},
		"terminal and stderr": {ContainerId: running, Cmd: []string{"/box"}, Stdout: true, Stderr: true, Tty: true},
	} {
		if _, err := s.rt.Exec(context.Background(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}
