//go:build linux

package runtime

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pageSize is how many items a streamed list sends at a time.
const pageSize = 256

// queries tells what there is. It waits for no operation.
type queries struct{ m *machine }

// ListPodSandbox lists sandboxes, the newest first.
func (q *queries) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: q.sandboxes(req.GetFilter())}, nil
}

// StreamPodSandboxes is ListPodSandbox in pages.
func (q *queries) StreamPodSandboxes(req *runtimeapi.StreamPodSandboxesRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return stream(q.sandboxes(req.GetFilter()), func(items []*runtimeapi.PodSandbox) error {
		return out.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: items})
	})
}

// stream sends items in pages.
func stream[T any](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n := min(pageSize, len(items))
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func (q *queries) sandboxes(f *runtimeapi.PodSandboxFilter) (out []*runtimeapi.PodSandbox) {
	for _, s := range q.m.table.allSandboxes() {
		rec := s.record()
		config, state := rec.Config.v, sandboxState(rec)
		if !strings.HasPrefix(s.id, f.GetId()) || f.GetState() != nil && f.State.State != state || !matches(f.GetLabelSelector(), config.Labels) {
			continue
		}
		out = append(out, &runtimeapi.PodSandbox{
			Id: s.id, Metadata: config.Metadata, State: state, CreatedAt: rec.CreatedAt.UnixNano(), Labels: config.Labels,
			Annotations: config.Annotations, RuntimeHandler: rec.Handler,
		})
	}
	return out
}

func sandboxState(rec sandboxRecord) runtimeapi.PodSandboxState {
	if rec.ready() {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// matches tells whether all wanted labels are there.
func matches(wanted, labels map[string]string) bool {
	for k, v := range wanted {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// ListContainers lists containers, the newest first.
func (q *queries) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: q.containers(req.GetFilter())}, nil
}

// StreamContainers is ListContainers in pages.
func (q *queries) StreamContainers(req *runtimeapi.StreamContainersRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return stream(q.containers(req.GetFilter()), func(items []*runtimeapi.Container) error {
		return out.Send(&runtimeapi.StreamContainersResponse{Containers: items})
	})
}

func (q *queries) containers(f *runtimeapi.ContainerFilter) (out []*runtimeapi.Container) {
	for _, c := range q.m.table.allContainers("") {
		rec := c.record()
		config := rec.Config.v
		switch {
		case !strings.HasPrefix(c.id, f.GetId()), !strings.HasPrefix(c.sandbox.id, f.GetPodSandboxId()),
			f.GetState() != nil && f.State.State != rec.Run.State, !matches(f.GetLabelSelector(), config.Labels):
			continue
		}
		out = append(out, &runtimeapi.Container{
			Id: c.id, PodSandboxId: c.sandbox.id, Metadata: config.Metadata, Image: config.Image, ImageRef: imageRef(rec.Image), ImageId: rec.Image.ID,
			State: rec.Run.State, CreatedAt: rec.CreatedAt.UnixNano(), Labels: config.Labels, Annotations: config.Annotations,
		})
	}
	return out
}

// imageRef is an image with its digest, or its ID if it came from no registry.
func imageRef(image Image) string {
	if len(image.RepoDigests) > 0 {
		return image.RepoDigests[0]
	}
	return image.ID
}

// PodSandboxStatus tells of one sandbox and of its containers.
func (q *queries) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := q.m.table.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.PodSandboxStatusResponse{Timestamp: q.m.clock.Now().UnixNano()}
	out.Status, out.ContainersStatuses = q.describe(s.id)
	if req.GetVerbose() {
		rec := s.record()
		details := map[string]any{"config": rec.Config, "phase": rec.Phase, "namespaces": rec.Spaces, "netns": rec.NetNS, "reason": rec.Reason, "cgroup": rec.Cgroup}
		if client := s.client(); client != nil {
			details["pid"] = client.Pid()
		}
		if out.Info, err = verbose(details); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// verbose is what `crictl inspect` shows besides the status.
func verbose(details any) (map[string]string, error) {
	data, err := json.Marshal(details)
	return map[string]string{"info": string(data)}, err
}

// describe is the status of a sandbox and those of its containers; nil for one that is gone.
func (q *queries) describe(id string) (*runtimeapi.PodSandboxStatus, []*runtimeapi.ContainerStatus) {
	s, err := q.m.table.sandbox(id)
	if err != nil {
		return nil, nil
	}
	rec := s.record()
	config := rec.Config.v
	o := options(config)
	if o == nil {
		o = &runtimeapi.NamespaceOption{}
	}
	out := &runtimeapi.PodSandboxStatus{
		Id: s.id, Metadata: config.Metadata, State: sandboxState(rec), CreatedAt: rec.CreatedAt.UnixNano(), Labels: config.Labels,
		Annotations: config.Annotations, RuntimeHandler: rec.Handler, Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: o}},
	}
	if rec.ready() {
		for i, a := range rec.Addresses {
			if i == 0 {
				out.Network.Ip = a.String()
			} else {
				out.Network.AdditionalIps = append(out.Network.AdditionalIps, &runtimeapi.PodIP{Ip: a.String()})
			}
		}
	}
	var containers []*runtimeapi.ContainerStatus
	for _, c := range q.m.table.allContainers(s.id) {
		containers = append(containers, containerStatus(c.record()))
	}
	return out, containers
}

// ContainerStatus tells of one container.
func (q *queries) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := q.m.table.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	rec := c.record()
	out := &runtimeapi.ContainerStatusResponse{Status: containerStatus(rec)}
	if req.GetVerbose() {
		out.Info, err = verbose(map[string]any{
			"sandboxID": rec.Sandbox, "pid": rec.Run.Pid, "config": rec.Config, "phase": rec.Phase, "cgroup": rec.Cgroup,
			"bundle": q.m.bundle(c.id), "rootfs": filepath.Join(q.m.bundle(c.id), "rootfs"), "image": rec.Image.ID,
		})
	}
	return out, err
}

func containerStatus(rec containerRecord) *runtimeapi.ContainerStatus {
	config := rec.Config.v
	out := &runtimeapi.ContainerStatus{
		Id: rec.ID, Metadata: config.Metadata, State: rec.Run.State, CreatedAt: rec.CreatedAt.UnixNano(), ExitCode: int32(rec.Run.ExitCode),
		Image: config.Image, ImageRef: imageRef(rec.Image), ImageId: rec.Image.ID, Reason: rec.Run.Reason, Message: rec.Run.Message,
		Labels: config.Labels, Annotations: config.Annotations, Mounts: config.Mounts, LogPath: rec.LogPath, StopSignal: rec.StopSignal,
		User: &runtimeapi.ContainerUser{Linux: rec.User.v},
	}
	if !rec.Run.StartedAt.IsZero() {
		out.StartedAt = rec.Run.StartedAt.UnixNano()
	}
	if !rec.Run.FinishedAt.IsZero() {
		out.FinishedAt = rec.Run.FinishedAt.UnixNano()
	}
	if r := config.GetLinux().GetResources(); r != nil {
		out.Resources = &runtimeapi.ContainerResources{Linux: r}
	}
	return out
}
