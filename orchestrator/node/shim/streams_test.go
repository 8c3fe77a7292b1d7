//go:build linux && cgo

package shim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

func TestLogOfBothStreams(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.run(p.bundle("c", []string{"both", "5000"}, nil))
	p.stopped("c")
	log := p.logOf("c")
	for _, stream := range []string{"out", "err"} {
		var want strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&want, "%s %d\n", stream, i)
		}
		if text(log, "std"+stream) != want.String() {
			t.Errorf("std%s is not what was written", stream)
		}
	}
	for i := 1; i < len(log); i++ {
		if log[i].time.Before(log[i-1].time) {
			t.Fatalf("entry %d is older than the one before", i)
		}
	}
}

func TestLongLines(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.run(p.bundle("c", []string{"long", "40000", "end\n"}, nil))
	p.run(p.bundle("open", []string{"long", "10", ""}, nil))
	p.stopped("c")
	p.stopped("open")
	var shape []string
	for _, e := range p.logOf("c") {
		shape = append(shape, fmt.Sprint(e.tag, len(e.msg)))
	}
	if got := strings.Join(shape, " "); got != "P16384 P16384 F7235" {
		t.Errorf("a long line is %s", got)
	}
	if log := p.logOf("open"); len(log) != 1 || log[0].tag != "P" || log[0].msg != "xxxxxxxxxx" {
		t.Errorf("a line without its newline is %v", log)
	}
}

// TestRotation renames the log while the container writes: no line is lost, none is there twice.
func TestRotation(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	c := p.bundle("c", []string{"tick"}, nil)
	p.run(c)
	var all string
	for i := range 20 {
		eventually(t, "it has written", func() bool { return len(p.logOf("c")) > 0 })
		old := fmt.Sprintf("%s.%d", c.LogPath, i)
		if err := os.Rename(c.LogPath, old); err != nil {
			t.Fatal(err)
		}
		if err := p.ReopenLog(ctx(t), "c"); err != nil {
			t.Fatal(err)
		}
		all += text(readLog(t, old), "stdout")
	}
	if err := p.Signal(ctx(t), "c", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if s := p.stopped("c"); s.ExitCode != 0 {
		t.Errorf("exit code %d", s.ExitCode)
	}
	all += text(p.logOf("c"), "stdout")
	n := 0
	for line := range strings.Lines(all) {
		if want := fmt.Sprintf("tick %d\n", n); line != want {
			t.Fatalf("%q follows where %q should", line, want)
		}
		n++
	}
	if n == 0 {
		t.Error("there are no lines")
	}
}

// TestAttach has two clients on one container, which both see what either makes it say.
func TestAttach(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	c := p.bundle("c", []string{"upper"}, nil)
	c.Stdin = true
	p.run(c)
	type side struct {
		in   *io.PipeWriter
		out  *lines
		done chan error
	}
	attach := func() *side {
		r, w := io.Pipe()
		s := &side{w, newLines(), make(chan error, 1)}
		go func() { s.done <- p.Attach(ctx(t), "c", shim.Streams{Stdin: r, Stdout: s.out, Stderr: io.Discard}) }()
		return s
	}
	a := attach()
	say(t, a.in, "one\n")
	a.out.expect(t, "ONE")
	b := attach()
	say(t, b.in, "two\n")
	a.out.expect(t, "TWO")
	b.out.expect(t, "TWO")
	if err := a.in.Close(); err != nil { // leaves; its input ends, the container's does not
		t.Fatal(err)
	}
	if err := <-a.done; err != nil {
		t.Error(err)
	}
	say(t, b.in, "three\n")
	b.out.expect(t, "THREE")
	if err := p.Signal(ctx(t), "c", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-b.done; err != nil {
		t.Error(err)
	}
	_ = b.in.Close()
	if err := p.Attach(ctx(t), "c", shim.Streams{Stdout: io.Discard}); !errors.Is(err, shim.ErrState) {
		t.Errorf("attach to one that has stopped: %v", err)
	}
	p.stopped("c")
	if got := text(p.logOf("c"), "stdout"); got != "ONE\nTWO\nTHREE\n" {
		t.Errorf("log %q", got)
	}
}

// TestStdinOnce ends the container's input with that of the first client, and passes on all that follows.
func TestStdinOnce(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	c := p.bundle("c", []string{"cat"}, nil)
	c.Stdin, c.StdinOnce = true, true
	p.run(c)
	input := strings.Repeat("0123456789abcde\n", 1<<15)
	var out bytes.Buffer
	if err := p.Attach(ctx(t), "c", shim.Streams{Stdin: strings.NewReader(input), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != input+"end\n" {
		t.Errorf("%d bytes came back of %d", out.Len(), len(input)+4)
	}
	if s := p.stopped("c"); s.ExitCode != 0 {
		t.Errorf("exit code %d", s.ExitCode)
	}
	if got := text(p.logOf("c"), "stdout"); got != input+"end\n" {
		t.Errorf("log of %d bytes", len(got))
	}
}

func TestNoStdin(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.run(p.bundle("c", []string{"cat"}, nil))
	p.stopped("c")
	if got := text(p.logOf("c"), "stdout"); got != "end\n" {
		t.Errorf("log %q", got)
	}
}

func TestTerminal(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	c := p.bundle("c", []string{"tty"}, nil)
	c.Terminal, c.Stdin = true, true
	p.create(c)
	r, w := io.Pipe()
	out, sizes, done := newLines(), make(chan shim.Size), make(chan error, 1)
	go func() { done <- p.Attach(ctx(t), "c", shim.Streams{Stdin: r, Stdout: out, Resize: sizes}) }()
	sizes <- shim.Size{Width: 90, Height: 30}
	sizes <- shim.Size{Width: 91, Height: 31} // taken only after the first was set
	if err := p.Start(ctx(t), "c"); err != nil {
		t.Fatal(err)
	}
	out.expect(t, "size 9")
	sizes <- shim.Size{Width: 100, Height: 40}
	out.expect(t, "size 100x40")
	say(t, w, "hello\n")
	out.expect(t, `read "hello\n"`)
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = w.Close()
	p.stopped("c")
	if got := text(p.logOf("c"), "stdout"); !strings.Contains(got, "size 100x40\r\n") {
		t.Errorf("log %q", got)
	}
}

func TestExecTerminal(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.run(p.bundle("c", []string{"sleep"}, nil))
	r, w := io.Pipe()
	out, sizes, done := newLines(), make(chan shim.Size), make(chan int, 1)
	go func() {
		code, err := p.Exec(ctx(t), "c", shim.ExecSpec{Args: []string{"/shimbox", "tty"}, Terminal: true}, shim.Streams{Stdin: r, Stdout: out, Resize: sizes})
		if err != nil {
			t.Error(err)
		}
		done <- code
	}()
	out.expect(t, "size 0x0")
	sizes <- shim.Size{Width: 120, Height: 50}
	out.expect(t, "size 120x50")
	say(t, w, "bye\n")
	out.expect(t, `read "bye\n"`)
	if code := <-done; code != 0 {
		t.Errorf("exit %d", code)
	}
	_ = w.Close()
}

func TestExecStreams(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.run(p.bundle("c", []string{"sleep"}, nil))
	input := strings.Repeat("a line of input\n", 1<<14)
	var out bytes.Buffer
	code, err := p.Exec(ctx(t), "c", shim.ExecSpec{Args: []string{"/shimbox", "cat"}}, shim.Streams{Stdin: strings.NewReader(input), Stdout: &out})
	if err != nil || code != 0 || out.String() != input+"end\n" {
		t.Errorf("exit %d, %d bytes, %v", code, out.Len(), err)
	}
	for _, tc := range []struct {
		name string
		spec shim.ExecSpec
		want string
	}{
		{"the container's environment", shim.ExecSpec{Args: []string{"/shimbox", "facts"}}, "cwd=/ env=own "},
		{"its own", shim.ExecSpec{Args: []string{"/shimbox", "facts"}, Env: []string{"FACT=mine"}, Cwd: "/tmp"}, "cwd=/tmp env=mine "},
	} {
		out.Reset()
		if _, err := p.Exec(ctx(t), "c", tc.spec, shim.Streams{Stdout: &out}); err != nil || !strings.Contains(out.String(), tc.want) {
			t.Errorf("%s: %q %v", tc.name, out.String(), err)
		}
	}
	if _, err := p.Exec(ctx(t), "c", shim.ExecSpec{Args: []string{"/nothing"}}, shim.Streams{}); err == nil || !strings.Contains(err.Error(), "/nothing") {
		t.Errorf("a command that is not there: %v", err)
	}
	if _, err := p.Exec(ctx(t), "other", shim.ExecSpec{Args: []string{"/shimbox"}}, shim.Streams{}); !errors.Is(err, shim.ErrNotFound) {
		t.Errorf("a container that is not there: %v", err)
	}
}

// TestExecLeavesBackground returns when the command has ended, though what it started still holds its output.
func TestExecLeavesBackground(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.run(p.bundle("c", []string{"sleep"}, nil))
	code, out, _ := p.exec("c", "daemon")
	if code != 0 || out != "started\n" {
		t.Errorf("exit %d, %q", code, out)
	}
}

func TestExecIsKilledWithItsContext(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{PID: true})
	p.run(p.bundle("c", []string{"sleep"}, nil))
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	out, done := newLines(), make(chan error, 1)
	go func() {
		_, err := p.Exec(c, "c", shim.ExecSpec{Args: []string{"/shimbox", "hang", "0"}}, shim.Streams{Stdout: out})
		done <- err
	}()
	out.expect(t, "hanging 0")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	pids := func() int {
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/pids", p.cgroup, "c/cgroup.procs"))
		if err != nil {
			data, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", p.cgroup, "c/cgroup.procs"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return len(strings.Fields(string(data)))
	}
	eventually(t, "only the first process is left", func() bool { return pids() == 1 })
}

func say(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

// lines is output that a test waits for.
type lines struct {
	mu   sync.Mutex
	all  string
	more chan struct{}
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1)} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all += string(p)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

// expect waits until the output has a text.
func (l *lines) expect(t *testing.T, want string) {
	t.Helper()
	c := ctx(t)
	for {
		l.mu.Lock()
		all := l.all
		l.mu.Unlock()
		if strings.Contains(all, want) {
			return
		}
		select {
		case <-l.more:
		case <-c.Done():
			t.Fatalf("%q does not come: %q", want, all)
		}
	}
}

// TestAttachThatTakesNothing holds a container up, until it leaves.
func TestAttachThatTakesNothing(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.create(p.bundle("c", []string{"both", "50000"}, nil))
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		done <- p.Attach(c, "c", shim.Streams{Stdout: writer(func(p []byte) (int, error) {
			once.Do(func() { close(blocked) })
			<-release
			return len(p), nil
		})})
	}()
	// Until it is attached, so that it sees the first output.
	eventually(t, "it is attached", func() bool { return attached(t, p) })
	if err := p.Start(ctx(t), "c"); err != nil {
		t.Fatal(err)
	}
	<-blocked
	if s, err := p.State(ctx(t), "c"); err != nil || s.Status != shim.Running {
		t.Errorf("it did not wait: %+v %v", s, err)
	}
	cancel()
	if s := p.stopped("c"); s.ExitCode != 0 {
		t.Errorf("%+v", s)
	}
	close(release)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := len(p.logOf("c")); n != 100000 {
		t.Errorf("%d entries", n)
	}
}

// attached tells whether the shim holds another's end of a pipe: two of the container's streams are its own.
func attached(t *testing.T, p *pod) bool {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	pipes := 0
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "pipe:") {
			pipes++
		}
	}
	return pipes >= 3
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestNoProgram starts a file that the kernel cannot run: the container says so in its log, and fails.
func TestNoProgram(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	c := p.bundle("c", []string{"echo"}, func(s *specs.Spec) { s.Process.Args = []string{"/text"} })
	if err := os.WriteFile(filepath.Join(c.Bundle, "rootfs/text"), []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.run(c)
	if s := p.stopped("c"); s.ExitCode == 0 || s.Reason != "Error" {
		t.Errorf("%+v", s)
	}
	if got := text(p.logOf("c"), "stderr"); !strings.Contains(got, "exec format error") {
		t.Errorf("log %q", got)
	}
}
