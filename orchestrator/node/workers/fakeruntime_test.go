package workers

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// behaviour says what a container does, by its attempt.
type behaviour struct {
	run     time.Duration // until it ends by itself; 0: never
	exit    int32
	oom     bool
	onTerm  time.Duration // how long it takes to end after SIGTERM
	ignores bool          // SIGTERM
	start   error         // of StartContainer
	says    string        // what it writes as its message
	logs    string        // what it writes to its log
}

// fakeRuntime is a container runtime in memory. It keeps sandboxes and containers over restarts of the agent.
type fakeRuntime struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient

	mu         sync.Mutex
	next       int
	boxes      map[string]*fakeBox
	containers map[string]*fakeContainer
	behave     func(name string, attempt int) behaviour
	exec       func(ctx context.Context, id string, cmd []string) (int32, error)
	images     map[string]*runtimeapi.Image
	pullErr    map[string]error
	pullTime   time.Duration
	boxErr     error
	createErr  map[string]error
	calls      []string
	auths      []*runtimeapi.AuthConfig
	noEvents   bool
	down       bool
	watchers   []chan *runtimeapi.ContainerEventResponse
}

type fakeBox struct {
	status *runtimeapi.PodSandboxStatus
	config *runtimeapi.PodSandboxConfig
}

type fakeContainer struct {
	status *runtimeapi.ContainerStatus
	config *runtimeapi.ContainerConfig
	box    string
	b      behaviour
	term   chan struct{} // closed when it is asked to end
	killed chan struct{}
	ended  chan struct{}
}

func newFakeRuntime() *fakeRuntime {
	return &fakeRuntime{
		boxes: map[string]*fakeBox{}, containers: map[string]*fakeContainer{}, images: map[string]*runtimeapi.Image{}, pullErr: map[string]error{}, createErr: map[string]error{},
		behave: func(string, int) behaviour { return behaviour{} },
	}
}

func (f *fakeRuntime) log(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

// took returns the calls since it was last asked.
func (f *fakeRuntime) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls
	f.calls = nil
	return c
}

func notFound(id string) error { return status.Errorf(codes.NotFound, "%s not found", id) }

func (f *fakeRuntime) id(kind string) string {
	f.next++
	return fmt.Sprintf("%s%d", kind, f.next)
}

func (f *fakeRuntime) emit(box string, kind runtimeapi.ContainerEventType, id string) {
	b := f.boxes[box]
	if b == nil {
		return
	}
	for _, w := range f.watchers {
		select {
		case w <- &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, PodSandboxStatus: b.status}:
		default:
		}
	}
}

func (f *fakeRuntime) Version(context.Context, *runtimeapi.VersionRequest, ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "fake"}, nil
}

func (f *fakeRuntime) RunPodSandbox(_ context.Context, r *runtimeapi.RunPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RunPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log("sandbox %d", r.Config.Metadata.Attempt)
	if f.boxErr != nil {
		return nil, f.boxErr
	}
	id := f.id("box")
	s := &runtimeapi.PodSandboxStatus{
		Id: id, Metadata: r.Config.Metadata, CreatedAt: time.Now().UnixNano(), Labels: r.Config.Labels, Annotations: r.Config.Annotations, RuntimeHandler: r.RuntimeHandler,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: r.Config.Linux.SecurityContext.NamespaceOptions}},
	}
	if r.Config.Linux.SecurityContext.NamespaceOptions.Network == runtimeapi.NamespaceMode_POD {
		s.Network = &runtimeapi.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.0.0.%d", f.next), AdditionalIps: []*runtimeapi.PodIP{{Ip: fmt.Sprintf("fd00::%d", f.next)}}}
	}
	f.boxes[id] = &fakeBox{status: s, config: r.Config}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (f *fakeRuntime) StopPodSandbox(_ context.Context, r *runtimeapi.StopPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.StopPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.boxes[r.PodSandboxId]
	if b == nil {
		return nil, notFound(r.PodSandboxId)
	}
	f.log("stop sandbox")
	f.stopBox(r.PodSandboxId)
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// stopBox makes a sandbox unready and kills what is in it.
func (f *fakeRuntime) stopBox(id string) {
	f.boxes[id].status.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	f.boxes[id].status.Network = nil
	for _, c := range f.containers {
		if c.box == id && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			closeOnce(c.killed)
		}
	}
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func (f *fakeRuntime) RemovePodSandbox(_ context.Context, r *runtimeapi.RemovePodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RemovePodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes[r.PodSandboxId] != nil {
		f.log("remove sandbox")
		delete(f.boxes, r.PodSandboxId)
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest, _ ...grpc.CallOption) (*runtimeapi.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.boxes[r.PodSandboxId]
	if b == nil {
		return nil, notFound(r.PodSandboxId)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: cloned(b.status)}, nil
}

func has(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, status.Error(codes.Unavailable, "runtime is down")
	}
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, b := range f.boxes {
		if s := b.status; has(s.Labels, r.GetFilter().GetLabelSelector()) {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations})
		}
	}
	return out, nil
}

func (f *fakeRuntime) CreateContainer(_ context.Context, r *runtimeapi.CreateContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CreateContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, attempt := r.Config.Metadata.Name, int(r.Config.Metadata.Attempt)
	f.log("create %s %d", name, attempt)
	if err := f.createErr[name]; err != nil {
		return nil, err
	}
	b := f.boxes[r.PodSandboxId]
	if b == nil || b.status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil, status.Error(codes.FailedPrecondition, "sandbox is not ready")
	}
	for _, c := range f.containers {
		if c.box == r.PodSandboxId && c.status.Metadata.Name == name && c.status.Metadata.Attempt == r.Config.Metadata.Attempt {
			return nil, status.Errorf(codes.AlreadyExists, "container %s %d exists", name, attempt)
		}
	}
	id := f.id(name + "-")
	f.containers[id] = &fakeContainer{
		box: r.PodSandboxId, config: r.Config, b: f.behave(name, attempt), term: make(chan struct{}), killed: make(chan struct{}), ended: make(chan struct{}),
		status: &runtimeapi.ContainerStatus{
			Id: id, Metadata: r.Config.Metadata, CreatedAt: time.Now().UnixNano(), Image: r.Config.Image, ImageRef: "ref/" + r.Config.Image.Image, Labels: r.Config.Labels,
			Annotations: r.Config.Annotations, Mounts: r.Config.Mounts, LogPath: filepath.Join(r.SandboxConfig.LogDirectory, r.Config.LogPath), StopSignal: r.Config.StopSignal,
			Resources: &runtimeapi.ContainerResources{Linux: r.Config.Linux.Resources},
		},
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (f *fakeRuntime) StartContainer(_ context.Context, r *runtimeapi.StartContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StartContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, notFound(r.ContainerId)
	}
	f.log("start %s", c.status.Metadata.Name)
	if c.b.start != nil {
		c.status.State, c.status.ExitCode, c.status.Reason = runtimeapi.ContainerState_CONTAINER_EXITED, 128, "StartError"
		c.status.FinishedAt = time.Now().UnixNano()
		closeOnce(c.ended)
		return nil, c.b.start
	}
	c.status.State, c.status.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	_ = os.WriteFile(c.status.LogPath, []byte(c.b.logs), 0o600)
	for _, m := range c.status.Mounts {
		if m.ContainerPath == "/dev/termination-log" && c.b.says != "" {
			_ = os.WriteFile(m.HostPath, []byte(c.b.says), 0o600)
		}
	}
	f.emit(c.box, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, c.status.Id)
	go f.live(c)
	return &runtimeapi.StartContainerResponse{}, nil
}

// live is the life of a container.
func (f *fakeRuntime) live(c *fakeContainer) {
	var own <-chan time.Time
	if c.b.run > 0 {
		t := time.NewTimer(c.b.run)
		defer t.Stop()
		own = t.C
	}
	exit := c.b.exit
	term := c.term
	if c.b.ignores {
		term = nil
	}
	select {
	case <-own:
	case <-term:
		exit = 143
		t := time.NewTimer(c.b.onTerm)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.killed:
			exit = 137
		}
	case <-c.killed:
		exit = 137
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := c.status
	s.State, s.ExitCode, s.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, exit, time.Now().UnixNano()
	s.Reason = "Completed"
	if exit != 0 {
		s.Reason = "Error"
	}
	if c.b.oom {
		s.Reason = "OOMKilled"
	}
	closeOnce(c.ended)
	f.emit(c.box, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, s.Id)
}

func (f *fakeRuntime) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StopContainerResponse, error) {
	f.mu.Lock()
	c := f.containers[r.ContainerId]
	if c == nil {
		f.mu.Unlock()
		return nil, notFound(r.ContainerId)
	}
	f.log("stop %s %ds", c.status.Metadata.Name, r.Timeout)
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		if c.status.State == runtimeapi.ContainerState_CONTAINER_CREATED {
			c.status.State, c.status.ExitCode, c.status.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, 137, time.Now().UnixNano()
		}
		f.mu.Unlock()
		return &runtimeapi.StopContainerResponse{}, nil
	}
	closeOnce(c.term)
	f.mu.Unlock()
	t := time.NewTimer(time.Duration(r.Timeout) * time.Second)
	defer t.Stop()
	select {
	case <-c.ended:
	case <-t.C:
		f.mu.Lock()
		closeOnce(c.killed)
		f.mu.Unlock()
		<-c.ended
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[r.ContainerId]; c != nil {
		f.log("remove %s %d", c.status.Metadata.Name, c.status.Metadata.Attempt)
		closeOnce(c.killed)
		delete(f.containers, r.ContainerId)
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (f *fakeRuntime) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range f.containers {
		if s := c.status; has(s.Labels, r.GetFilter().GetLabelSelector()) {
			out.Containers = append(out.Containers, &runtimeapi.Container{Id: s.Id, PodSandboxId: c.box, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations})
		}
	}
	return out, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, notFound(r.ContainerId)
	}
	return &runtimeapi.ContainerStatusResponse{Status: cloned(c.status)}, nil
}

func (f *fakeRuntime) UpdateContainerResources(_ context.Context, r *runtimeapi.UpdateContainerResourcesRequest, _ ...grpc.CallOption) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, notFound(r.ContainerId)
	}
	f.log("update %s shares=%d quota=%d memory=%d", c.status.Metadata.Name, r.Linux.CpuShares, r.Linux.CpuQuota, r.Linux.MemoryLimitInBytes)
	c.status.Resources = &runtimeapi.ContainerResources{Linux: r.Linux}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

func (f *fakeRuntime) UpdatePodSandboxResources(context.Context, *runtimeapi.UpdatePodSandboxResourcesRequest, ...grpc.CallOption) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

func (f *fakeRuntime) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	f.mu.Lock()
	f.log("exec %v", r.Cmd)
	exec := f.exec
	f.mu.Unlock()
	if exec == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	code, err := exec(ctx, r.ContainerId, r.Cmd)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecSyncResponse{ExitCode: code, Stderr: []byte("boom")}, nil
}

type fakeStream struct {
	grpc.ClientStream
	ctx context.Context
	ch  chan *runtimeapi.ContainerEventResponse
}

func (s *fakeStream) Recv() (*runtimeapi.ContainerEventResponse, error) {
	select {
	case e := <-s.ch:
		return e, nil
	case <-s.ctx.Done():
		return nil, io.EOF
	}
}

func (f *fakeRuntime) GetContainerEvents(ctx context.Context, _ *runtimeapi.GetEventsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noEvents {
		return nil, status.Error(codes.Unimplemented, "no events")
	}
	ch := make(chan *runtimeapi.ContainerEventResponse, 1024)
	f.watchers = append(f.watchers, ch)
	return &fakeStream{ctx: ctx, ch: ch}, nil
}

func (f *fakeRuntime) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &runtimeapi.ImageStatusResponse{Image: f.images[r.Image.Image]}, nil
}

func (f *fakeRuntime) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest, _ ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	f.mu.Lock()
	f.log("pull %s", r.Image.Image)
	f.auths = append(f.auths, r.Auth)
	err, wait := f.pullErr[r.Image.Image], f.pullTime
	f.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.images[r.Image.Image] = &runtimeapi.Image{Id: r.Image.Image, Size: 1000}
	return &runtimeapi.PullImageResponse{ImageRef: r.Image.Image}, nil
}

// container returns the newest container of a name.
func (f *fakeRuntime) container(name string) *fakeContainer {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found *fakeContainer
	for _, c := range f.containers {
		if c.status.Metadata.Name == name && (found == nil || c.status.Metadata.Attempt > found.status.Metadata.Attempt) {
			found = c
		}
	}
	return found
}

// left lists what the runtime still has.
func (f *fakeRuntime) left() (ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.boxes {
		ids = append(ids, id)
	}
	for id := range f.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// end ends all containers, for the end of a test.
func (f *fakeRuntime) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		closeOnce(c.killed)
	}
}

// lose makes all sandboxes unready, as a restart of the machine does.
func (f *fakeRuntime) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, b := range f.boxes {
		if b.status.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			f.stopBox(id)
			f.emit(id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, id)
		}
	}
}
