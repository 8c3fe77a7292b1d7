//go:build linux

package application

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// running is kubectl while it runs.
type running struct {
	*exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs bytes.Buffer
}

// kubectl starts kubectl. It is killed at the end of the test if it runs then.
func kubectl(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{Cmd: cluster.KubectlCommand(t, args...)}
	var err error
	r.in, err = r.StdinPipe()
	require.NoError(t, err)
	out, err := r.StdoutPipe()
	require.NoError(t, err)
	r.out, r.Stderr = bufio.NewReader(out), &r.errs
	require.NoError(t, cluster.One.Do(r.Start))
	t.Cleanup(func() {
		_ = r.Process.Kill() // it may have ended
		_ = r.Wait()
	})
	return r
}

// line reads the next line that kubectl says.
func (r *running) line(t *testing.T) string {
	t.Helper()
	line, err := r.out.ReadString('\n')
	require.NoError(t, err, "%s", &r.errs)
	return line
}

func TestLogs(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Started(t, ns, nodetest.Pod("counts", "count", "20ms"))
	follows := kubectl(t, "logs", "-n", ns, "-f", "counts")
	for _, want := range []string{"1\n", "2\n", "3\n"} {
		require.Equal(t, want, follows.line(t))
	}
	require.Len(t, strings.Split(strings.TrimSpace(cluster.Kubectl(t, "logs", "-n", ns, "counts", "--tail=2")), "\n"), 2)
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\S+ 1\n`, cluster.Kubectl(t, "logs", "-n", ns, "counts", "--timestamps"))
	cluster.Delete(t, ns, "counts")
	rest, err := io.ReadAll(follows.out)
	require.NoError(t, err)
	require.NoError(t, follows.Wait(), "what is followed ends with the pod: %s", &follows.errs)
	require.True(t, strings.HasPrefix(string(rest), "4\n5\n"), "%s", rest)
}

func TestExec(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Started(t, ns, nodetest.Pod("target", "sleep", "infinity"))
	cat := kubectl(t, "exec", "-i", "-n", ns, "target", "--", "cat")
	_, err := io.WriteString(cat.in, "there and back\n")
	require.NoError(t, err)
	require.Equal(t, "there and back\n", cat.line(t))
	require.NoError(t, cat.in.Close())
	require.NoError(t, cat.Wait(), "%s", &cat.errs)

	fails := cluster.KubectlCommand(t, "exec", "-n", ns, "target", "--", "sh", "-c", "exit 7")
	require.Error(t, cluster.One.Do(fails.Run))
	require.Equal(t, 7, fails.ProcessState.ExitCode())
}

// TestTerminal is exec -it: the command has a terminal, of the size of the user's, that is changed with it.
func TestTerminal(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Started(t, ns, nodetest.Pod("target", "sleep", "infinity"))
	own, path, err := console.NewPty()
	require.NoError(t, err)
	defer own.Close()
	require.NoError(t, own.Resize(console.WinSize{Width: 90, Height: 30}))
	theirs, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	cmd := cluster.KubectlCommand(t, "exec", "-it", "-n", ns, "target", "--", "sh")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	require.NoError(t, cluster.One.Do(cmd.Start))
	_ = theirs.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
	})
	var mu sync.Mutex
	var said strings.Builder
	text := func() string {
		mu.Lock()
		defer mu.Unlock()
		return said.String()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1024)
		for {
			n, err := own.Read(buf)
			if err != nil {
				return // a terminal whose other end is closed
			}
			mu.Lock()
			said.Write(buf[:n])
			mu.Unlock()
		}
	}()
	// The size comes beside what is typed, and may come after it.
	require.Eventually(t, func() bool {
		_, _ = io.WriteString(own, "tty\n")
		return strings.Contains(text(), "90 30\r\n")
	}, time.Minute, 200*time.Millisecond)
	_, err = io.WriteString(own, "hostname; exit 3\n")
	require.NoError(t, err)
	<-ended
	require.Error(t, cmd.Wait())
	require.Equal(t, 3, cmd.ProcessState.ExitCode(), text())
	require.Contains(t, text(), "target\r\n")
}

func TestCopy(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Started(t, ns, nodetest.Pod("target", "sleep", "infinity"))
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "tree", "deep"), 0o755))
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for name, text := range map[string]string{"tree/small": "small", "tree/deep/big": big} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640))
	}
	cluster.Kubectl(t, "cp", "-n", ns, filepath.Join(dir, "tree"), "target:/tmp/tree")
	require.Equal(t, "small", cluster.Exec(t, ns, "target", "main", "cat", "/tmp/tree/small"))
	cluster.Kubectl(t, "cp", "-n", ns, "target:/tmp/tree", filepath.Join(dir, "back"))
	b, err := os.ReadFile(filepath.Join(dir, "back", "deep", "big"))
	require.NoError(t, err)
	require.True(t, string(b) == big, "%d bytes came back", len(b))
}

func TestPortForward(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	deploy(t, ns)
	for target, port := range map[string]string{"service/web": ":80", "deployment/web": ":8080"} {
		forwards := kubectl(t, "port-forward", "-n", ns, target, port)
		said := forwards.line(t)
		_, rest, _ := strings.Cut(said, "127.0.0.1:")
		local, _, ok := strings.Cut(rest, " ")
		require.True(t, ok, said)
		c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dialer(cluster.One.NetNS), DisableKeepAlives: true}}
		for range 3 {
			r, err := c.Get("http://127.0.0.1:" + local + "/")
			require.NoError(t, err, "%s", &forwards.errs)
			b, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.NoError(t, r.Body.Close())
			require.Equal(t, "one\n", string(b))
		}
	}
}

// TestAttach is about the streams of what already runs.
func TestAttach(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("listens", "cat")
	pod.Spec.Containers[0].Stdin, pod.Spec.Containers[0].StdinOnce = true, true
	cluster.Started(t, ns, pod)
	attached := kubectl(t, "attach", "-i", "-n", ns, "listens")
	_, err := io.WriteString(attached.in, "hello\n")
	require.NoError(t, err)
	require.Equal(t, "hello\n", attached.line(t))
	require.NoError(t, attached.in.Close())
	require.NoError(t, attached.Wait(), "%s", &attached.errs)
	done := cluster.Await(t, ns, "listens", "has ended", nodetest.Ended)
	require.Equal(t, corev1.PodSucceeded, done.Status.Phase)
	require.Equal(t, "hello\n", cluster.Log(t, ns, "listens", "main"))
}

// TestDebug adds a container to a pod that runs, which sees the processes of another.
func TestDebug(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Started(t, ns, nodetest.Pod("patient", "trap", "0"))
	cluster.Kubectl(t, "debug", "-n", ns, "patient", "--image", nodetest.Image, "--image-pull-policy", "Never", "--target", "main", "-c", "doctor", "--profile", "general", "--", "sh", "-c", "ps; sleep infinity")
	require.Regexp(t, `(?m)^1 trap 0$`, cluster.Logs(t, ns, "patient", "doctor", "sleep infinity"))
	require.Equal(t, "patient\n", cluster.Kubectl(t, "exec", "-n", ns, "patient", "-c", "doctor", "--", "hostname"))

	// A copy of the pod with another command, in the node's namespaces.
	cluster.Kubectl(t, "debug", "node/one", "-n", ns, "--image", nodetest.Image, "--image-pull-policy", "Never", "--profile", "general", "--", "stat", "/host/proc")
	nodetest.Until(t, "the node's pod", func() (bool, any) {
		out := cluster.Kubectl(t, "get", "pods", "-n", ns)
		return strings.Contains(out, "node-debugger-one-") && strings.Contains(out, "Completed"), out
	})
}

func TestTop(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Started(t, ns, nodetest.Pod("works", "sh", "-c", "burn 100"))
	for _, args := range [][]string{{"top", "pods", "-n", ns, "--no-headers"}, {"top", "nodes", "--no-headers"}} {
		nodetest.Until(t, strings.Join(args, " "), func() (bool, any) {
			cmd := cluster.KubectlCommand(t, args...)
			var out []byte
			err := cluster.One.Do(func() (err error) {
				out, err = cmd.CombinedOutput()
				return err
			})
			fields := strings.Fields(string(out))
			return err == nil && len(fields) >= 3 && fields[1] != "0m" && strings.HasSuffix(fields[1], "m"), string(out)
		})
	}
}
