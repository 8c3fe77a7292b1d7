package clustertest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/server/servertest"
)

// Program is keelson's binary, run with fixed arguments, again and again. It ends with the test.
type Program struct {
	t    testing.TB
	path string
	args []string
	log  string

	cmd  *exec.Cmd
	done chan struct{}
}

// NewProgram says what to run, and does not run it yet. What it writes is appended to the file log, whose end is shown if the
// test fails. Without a binary the test is skipped.
func NewProgram(t testing.TB, log string, args ...string) *Program {
	t.Helper()
	p := &Program{t: t, path: servertest.Keelson(t), args: args, log: log}
	t.Cleanup(func() {
		if p.Running() {
			p.Terminate()
		}
		if t.Failed() {
			b, _ := os.ReadFile(log) // without it there is nothing to show
			t.Logf("%s:\n%s", filepath.Base(log), b[max(0, len(b)-8000):])
		}
	})
	return p
}

// Start runs the program.
func (p *Program) Start() {
	p.t.Helper()
	require.False(p.t, p.Running())
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(p.t, err)
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.t.TempDir()}
	require.NoError(p.t, cmd.Start())
	p.cmd, p.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait() // how it ended does not matter
		_ = log.Close()
		close(done)
	}(p.done)
}

// Running says whether the program runs.
func (p *Program) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the program as it is.
func (p *Program) Kill() { p.end(syscall.SIGKILL) }

// Terminate ends the program in order.
func (p *Program) Terminate() { p.end(syscall.SIGTERM) }

func (p *Program) end(s syscall.Signal) {
	p.t.Helper()
	_ = p.cmd.Process.Signal(s) // it may be gone
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("keelson %s does not end", p.args[0])
	}
}

// FreePort returns a port of the loopback interface that nobody listens on, and that no outgoing connection gets.
func FreePort(t testing.TB) int {
	t.Helper()
	_, text, err := net.SplitHostPort(servertest.FreeAddr(t))
	require.NoError(t, err)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	return port
}

// WaitReady waits until the API server at a port of the loopback interface says that it is ready.
func WaitReady(t testing.TB, port int) {
	t.Helper()
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, // it is asked for its health only
	}}
	url := "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) + "/readyz"
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	for {
		r, err := c.Get(url)
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
			require.FailNow(t, "the API server is not ready", "%s: %v", url, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kubeconfig waits for a file, and reads how to reach the API server from it, without a limit on the client's side.
func Kubeconfig(t testing.TB, path string) *rest.Config {
	t.Helper()
	var c *rest.Config
	require.Eventually(t, func() bool {
		var err error
		c, err = clientcmd.BuildConfigFromFlags("", path)
		return err == nil
	}, startTimeout, 20*time.Millisecond, path)
	c.QPS = -1
	return c
}
