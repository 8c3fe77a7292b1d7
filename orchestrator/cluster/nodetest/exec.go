//go:build linux

package nodetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// Exec runs a command in a container and returns what it says on its standard output. It has to succeed.
func (c *Cluster) Exec(t testing.TB, ns, pod, container string, command ...string) string {
	t.Helper()
	out, err := c.TryExec(t.Context(), ns, pod, container, command...)
	require.NoError(t, err)
	return out
}

// TryExec is Exec for what may fail. The error of a command that did is an exec.CodeExitError with what it said on its
// standard error.
func (c *Cluster) TryExec(ctx context.Context, ns, pod, container string, command ...string) (string, error) {
	url := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(pod).SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: container, Command: command, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec).URL()
	e, err := remotecommand.NewWebSocketExecutor(c.Config, "GET", url.String())
	if err != nil {
		return "", err
	}
	var out, errs bytes.Buffer
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errs}); err != nil {
		return out.String(), fmt.Errorf("%s in %s/%s: %w: %s", strings.Join(command, " "), ns, pod, err, errs.String())
	}
	return out.String(), nil
}

// Outside runs a tool of the image on the wire, outside of all nodes, and returns all that it says.
func (c *Cluster) Outside(args ...string) (string, error) {
	var out []byte
	err := c.Wire.Do(func() (err error) {
		out, err = exec.Command(filepath.Join(c.Dir, "rootfs", "bin", "toolbox"), args...).CombinedOutput()
		return err
	})
	return string(out), err
}

// Command is a program on a machine, not started. Start it with Machine.Do.
func (m *Machine) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.Dir}
	cmd.Dir = m.Dir
	return cmd
}

// KubectlCommand is kubectl, not started, which reaches the cluster on the machine of Up. Without kubectl the test is skipped.
func (c *Cluster) KubectlCommand(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := built(filepath.Join("peers", "kubectl"), "make peers")
	if err != nil {
		if os.Getenv("KEELSON_REQUIRE_BINARIES") != "" {
			require.NoError(t, err)
		}
		t.Skip(err)
	}
	cmd := c.One.Command(path, args...)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+c.Kubeconfig)
	return cmd
}

// Kubectl runs kubectl to its end and returns what it says on its standard output. It has to succeed.
func (c *Cluster) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	cmd := c.KubectlCommand(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, c.One.Do(cmd.Run), "kubectl %s: %s%s", strings.Join(args, " "), &out, &errs)
	return out.String()
}
