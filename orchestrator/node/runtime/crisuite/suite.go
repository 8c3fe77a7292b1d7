//go:build linux

package crisuite

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/facts"
)

// Target is a runtime under test.
type Target struct {
	Endpoint     string // unix:///...
	Registry     string // where the suite's images are: what Registry answers
	CgroupParent string // of sandboxes, cgroupfs style
	Handler      string // a runtime handler that is known besides ""
	CDIDir       string // where the runtime looks for descriptions of CDI devices
	UserNS       bool   // whether user namespaces work here
	Complete     bool   // whether it is held to what containerd leaves out: ambient capabilities, metrics on cgroup v1
}

// patience bounds whatever is waited for.
const patience = time.Minute

// suite is a target with connections to it.
type suite struct {
	Target
	rt     runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient
}

// sequence makes names differ.
var sequence atomic.Int64

func arch() string { return runtime.GOARCH }

// Run runs all cases.
func Run(t *testing.T, target Target) {
	s := connect(t, target)
	for image := range configs {
		s.pull(t, image)
	}
	for name, run := range cases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, s)
		})
	}
}

// cases by name.
func cases() map[string]func(*testing.T, *suite) {
	all := map[string]func(*testing.T, *suite){}
	for _, group := range []map[string]func(*testing.T, *suite){
		sandboxCases, containerCases, processCases, securityCases, mountCases, streamCases, statsCases,
	} {
		for name, run := range group {
			all[name] = run
		}
	}
	return all
}

// connect dials a target.
func connect(t testing.TB, target Target) *suite {
	t.Helper()
	conn, err := grpc.NewClient(target.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &suite{Target: target, rt: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn)}
}

// ctx is a context that is long enough for anything.
func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return c
}

func (s *suite) ref(image string) string { return Ref(s.Registry, image) }

// pull brings an image to the node and answers its ID.
func (s *suite) pull(t testing.TB, image string) string {
	t.Helper()
	out, err := s.images.PullImage(ctx(t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: s.ref(image)}})
	if err != nil {
		t.Fatal(err)
	}
	return out.ImageRef
}

// pod is a sandbox of a test.
type pod struct {
	id     string
	config *runtimeapi.PodSandboxConfig
}

// podConfig is that of a sandbox with all its own namespaces, as an agent writes it.
func (s *suite) podConfig(t testing.TB) *runtimeapi.PodSandboxConfig {
	n := sequence.Add(1)
	logs, err := os.MkdirTemp("", "crilogs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(logs) })
	name := fmt.Sprintf("pod-%d", n)
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "suite", Uid: fmt.Sprintf("uid-%d-%d", os.Getpid(), n)},
		Hostname: name, LogDirectory: logs, Labels: map[string]string{"suite": "yes", "pod": name}, Annotations: map[string]string{"a/b": "c"},
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    s.CgroupParent,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
		},
	}
}

// pod runs a sandbox that is removed with the test.
func (s *suite) pod(t testing.TB, edits ...func(*runtimeapi.PodSandboxConfig)) *pod {
	t.Helper()
	config := s.podConfig(t)
	for _, edit := range edits {
		edit(config)
	}
	out, err := s.rt.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	s.removed(t, out.PodSandboxId)
	return &pod{out.PodSandboxId, config}
}

// removed sees to it that a sandbox is gone when the test ends.
func (s *suite) removed(t testing.TB, id string) {
	t.Cleanup(func() {
		if _, err := s.rt.StopPodSandbox(ctx(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
		if _, err := s.rt.RemovePodSandbox(ctx(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	})
}

// edit changes the config of a container.
type edit = func(*runtimeapi.ContainerConfig)

// config is that of a container that runs box with arguments, as an agent writes it for a pod that asks for nothing.
func (s *suite) config(args []string, edits ...edit) *runtimeapi.ContainerConfig {
	name := fmt.Sprintf("c%d", sequence.Add(1))
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: s.ref("box")}, Args: args,
		LogPath: name + "/0.log", Labels: map[string]string{"suite": "yes", "container": name}, Annotations: map[string]string{"d/e": "f"},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				MaskedPaths:      []string{"/proc/timer_list", "/proc/keys", "/sys/firmware"}, ReadonlyPaths: []string{"/proc/sys", "/proc/bus"},
			},
		},
	}
	for _, e := range edits {
		e(c)
	}
	return c
}

// sc is the security context of a config.
func sc(c *runtimeapi.ContainerConfig) *runtimeapi.LinuxContainerSecurityContext {
	return c.Linux.SecurityContext
}

// create makes a container in a pod.
func (s *suite) create(t testing.TB, p *pod, config *runtimeapi.ContainerConfig) (string, error) {
	t.Helper()
	out, err := s.rt.CreateContainer(ctx(t), &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.id, Config: config, SandboxConfig: proto.CloneOf(p.config),
	})
	return out.GetContainerId(), err
}

// start makes a container and starts it.
func (s *suite) start(t testing.TB, p *pod, args []string, edits ...edit) string {
	t.Helper()
	id, err := s.create(t, p, s.config(args, edits...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.rt.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	return id
}

// status of a container.
func (s *suite) status(t testing.TB, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	out, err := s.rt.ContainerStatus(ctx(t), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return out.Status
}

// eventually waits for something.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// wait waits for a container to end.
func (s *suite) wait(t testing.TB, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	var st *runtimeapi.ContainerStatus
	eventually(t, "the container ends", func() bool {
		st = s.status(t, id)
		return st.State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return st
}

// line is one of a log.
type line struct {
	At           time.Time
	Stream, Tags string
	Text         string
}

// log reads a log in CRI's format.
func readLog(t testing.TB, path string) (lines []line) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(data)) {
		if !strings.HasSuffix(text, "\n") {
			break // it is being written
		}
		f := strings.SplitN(strings.TrimSuffix(text, "\n"), " ", 4)
		if len(f) != 4 {
			t.Fatalf("%s: a bad line %q", path, text)
		}
		at, err := time.Parse(time.RFC3339Nano, f[0])
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line{at, f[1], f[2], f[3]})
	}
	return lines
}

// output is what a container has written to a stream.
func output(t testing.TB, path, stream string) string {
	t.Helper()
	var b strings.Builder
	for _, l := range readLog(t, path) {
		if l.Stream == stream {
			b.WriteString(l.Text)
			if l.Tags == "F" {
				b.WriteString("\n")
			}
		}
	}
	return b.String()
}

// run runs a container to its end, and answers what it wrote and how it ended.
func (s *suite) run(t testing.TB, p *pod, args []string, edits ...edit) (string, *runtimeapi.ContainerStatus) {
	t.Helper()
	id := s.start(t, p, args, edits...)
	st := s.wait(t, id)
	var out string
	eventually(t, "its log is complete", func() bool {
		out = output(t, st.LogPath, "stdout")
		return st.ExitCode != 0 || strings.HasSuffix(out, "\n") || len(args) > 0 && args[0] != "facts" && args[0] != "out"
	})
	return out, st
}

// says waits until a container has written a line.
func (s *suite) says(t testing.TB, id, text string) {
	t.Helper()
	path := s.status(t, id).LogPath
	eventually(t, fmt.Sprintf("%s says %q", filepath.Base(path), text), func() bool {
		return strings.Contains(output(t, path, "stdout"), text+"\n")
	})
}

// facts are what a container finds out about itself.
func (s *suite) facts(t testing.TB, p *pod, edits ...edit) *facts.Facts {
	t.Helper()
	out, st := s.run(t, p, []string{"facts"}, edits...)
	f := &facts.Facts{}
	if err := json.Unmarshal([]byte(out), f); err != nil {
		t.Fatalf("%v: %q, exit code %d, stderr %q", err, out, st.ExitCode, output(t, st.LogPath, "stderr"))
	}
	return f
}

// exec runs a command in a container and answers its outputs and exit code.
func (s *suite) exec(t testing.TB, id string, args ...string) *runtimeapi.ExecSyncResponse {
	t.Helper()
	out, err := s.rt.ExecSync(ctx(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: append([]string{"/box"}, args...), Timeout: 30})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// equal compares.
func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// converse sends a line to a port of the loopback and reads one.
func converse(ctx context.Context, port uint16, text string) (string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintln(conn, text); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}
