package serve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// runtime is a CRI runtime with one pod. Its containers understand a few commands.
type runtime struct {
	streams streaming.Server
	running atomic.Bool
	sandbox string // the UID of the pod
}

func newRuntime(t *testing.T, uid string) *runtime {
	t.Helper()
	r := &runtime{sandbox: uid}
	r.running.Store(true)
	srv := httptest.NewUnstartedServer(nil)
	cfg := streaming.DefaultConfig
	cfg.BaseURL = &url.URL{Scheme: "http", Host: srv.Listener.Addr().String()}
	s, err := streaming.NewServer(cfg, r)
	require.NoError(t, err)
	srv.Config.Handler, r.streams = s, s
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return r
}

func (r *runtime) ListPodSandbox(_ context.Context, in *runtimeapi.ListPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	if uid := in.GetFilter().GetLabelSelector()["io.kubernetes.pod.uid"]; uid != "" && uid != r.sandbox {
		return &runtimeapi.ListPodSandboxResponse{}, nil
	}
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{
		Id: "sandbox", State: runtimeapi.PodSandboxState_SANDBOX_READY,
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "default", Uid: r.sandbox},
	}}}, nil
}

func (r *runtime) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{
		Id: "a", PodSandboxId: "sandbox", Metadata: &runtimeapi.ContainerMetadata{Name: "a"}, Image: &runtimeapi.ImageSpec{Image: "i"},
	}}}, nil
}

func (r *runtime) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest, ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	s := runtimeapi.ContainerState_CONTAINER_EXITED
	if r.running.Load() {
		s = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: s}}, nil
}

func (r *runtime) ExecSync(_ context.Context, in *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	out := &runtimeapi.ExecSyncResponse{Stdout: []byte(strings.Join(in.Cmd, "|"))}
	if in.Cmd[0] == "fail" {
		out.ExitCode = 3
	}
	return out, nil
}

func (r *runtime) alone(id string) error {
	if id != "a" {
		return status.Errorf(codes.NotFound, "no container %q", id)
	}
	return nil
}

// execs has the calls whose names are those of streaming.Runtime, too.
type execs struct{ *runtime }

func (e execs) Exec(_ context.Context, in *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	if err := e.alone(in.ContainerId); err != nil {
		return nil, err
	}
	return e.streams.GetExec(in)
}

func (e execs) Attach(_ context.Context, in *runtimeapi.AttachRequest, _ ...grpc.CallOption) (*runtimeapi.AttachResponse, error) {
	return e.streams.GetAttach(in)
}

func (e execs) PortForward(_ context.Context, in *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	return e.streams.GetPortForward(in)
}

// Exec implements streaming.Runtime.
func (r *runtime) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	switch cmd[0] {
	case "echo":
		_, err := fmt.Fprintln(out, strings.Join(cmd[1:], " "))
		return err
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "both":
		_, _ = fmt.Fprint(out, "out")
		_, err := fmt.Fprint(errs, "err")
		return err
	case "exit":
		return &utilexec.CodeExitError{Err: errors.New("command terminated with exit code 7"), Code: 7}
	case "size":
		s := <-resize
		_, err := fmt.Fprintf(out, "%v %dx%d", tty, s.Width, s.Height)
		return err
	case "sleep":
		_, _ = fmt.Fprint(out, "begun")
		<-ctx.Done()
		return ctx.Err()
	}
	return fmt.Errorf("no such command: %v", cmd)
}

// Attach implements streaming.Runtime: an attached container says what it is told.
func (r *runtime) Attach(_ context.Context, _ string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(out, "you said "+line)
	return err
}

// PortForward implements streaming.Runtime: a port says its number, and then what it is told.
func (r *runtime) PortForward(_ context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	if port == 9 {
		return errors.New("nobody listens")
	}
	if _, err := fmt.Fprintf(stream, "%s %d\n", id, port); err != nil {
		return err
	}
	_, err := io.Copy(stream, stream)
	return err
}

// workers know one pod.
type workers struct {
	pod  *corev1.Pod
	path string // of its log
}

func (w *workers) Pods() []*corev1.Pod { return []*corev1.Pod{w.pod} }

func (w *workers) Container(_, _, container string, previous bool) (string, string, error) {
	switch {
	case container == "a" && previous:
		return "a", w.path + ".before", nil
	case container == "a" || container == "fails" && !previous:
		return "a", w.path, nil
	case container == "gone":
		return "gone", w.path + ".none", nil
	}
	return "", "", errors.New("there is none")
}
