package servertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// process is a member that runs as a program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// RunProgram starts a member as a program, whose first arguments are given (the binary, a subcommand). Its log is appended
// to <data dir>.log.
func (c *Cluster) RunProgram(m *Member, program ...string) {
	c.t.Helper()
	log, err := os.OpenFile(m.Dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(c.t, err)
	cmd := exec.Command(program[0], append(program[1:], c.Args(m)...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	require.NoError(c.t, cmd.Start())
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		_ = log.Close()
		close(p.done)
	}()
	m.proc = p
}

func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
}

func (p *process) terminate(t testing.TB) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Error("the member does not stop")
		p.kill()
	}
}

// Pause stops a program as it is, until Resume.
func (m *Member) Pause() { _ = m.proc.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused program go on.
func (m *Member) Resume() { _ = m.proc.cmd.Process.Signal(syscall.SIGCONT) }

// Pid is the process id of a member that runs as a program, 0 otherwise.
func (m *Member) Pid() int {
	if m.proc == nil {
		return 0
	}
	return m.proc.cmd.Process.Pid
}

// waitDial waits until a member answers health checks.
func (c *Cluster) waitDial(m *Member) {
	c.t.Helper()
	conn := c.Dial(m)
	require.Eventually(c.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err == nil
	}, readyTimeout, 50*time.Millisecond, "%s is not ready in time, see %s.log", m.Name, m.Dir)
}

// Oracle returns the path of one of the real etcd's programs, and skips the test if `make peers` has not built it.
func Oracle(t testing.TB, name string) string {
	return program(t, filepath.Join("peers", name), "make peers")
}

// Keelson returns the path of Keelson's own binary, and skips the test if `make build` has not built it.
func Keelson(t testing.TB) string { return program(t, "keelson", "make build") }

func program(t testing.TB, name, how string) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		require.NotEqual(t, "/", dir, "outside of the module")
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(dir, "bin", name)
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("KEELSON_REQUIRE_BINARIES") != "" {
			t.Fatalf("%s is missing: run %s", path, how)
		}
		t.Skipf("%s is missing: run %s", path, how)
	}
	return path
}

// Stress skips a test that belongs to the long runs, unless they were asked for.
func Stress(t testing.TB) {
	t.Helper()
	if os.Getenv("KEELSON_STRESS") == "" {
		t.Skip("KEELSON_STRESS is not set")
	}
}
