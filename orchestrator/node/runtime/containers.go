//go:build linux

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/spec"
)

// containers creates, starts, stops and removes them.
type containers struct{ m *machine }

// CreateContainer makes a container's root file system and configuration. What fails leaves nothing behind.
func (t *containers) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	config := req.GetConfig()
	s, err := t.m.table.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if config.GetMetadata().GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "runtime: the container has no name")
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	pod := s.record()
	if !pod.ready() {
		return nil, status.Errorf(codes.FailedPrecondition, "runtime: sandbox %s is not ready", s.id)
	}
	image, err := t.image(config.GetImage())
	if err != nil {
		return nil, err
	}
	id := newID()
	if err := t.m.table.reserve("container", containerName(config.Metadata, s.id), id); err != nil {
		return nil, err
	}
	c := &container{id: id, sandbox: s, exited: make(chan struct{}), rec: containerRecord{
		ID: id, Sandbox: s.id, Phase: making, Image: image, CreatedAt: t.m.clock.Now(), Mounts: []string{id},
		Cgroup: t.m.containerCgroup(pod.Cgroup, id),
	}}
	c.rec.Config.v = config
	if dir := pod.Config.v.LogDirectory; dir != "" && config.LogPath != "" {
		c.rec.LogPath = filepath.Join(dir, config.LogPath)
	}
	for i, m := range config.Mounts {
		if m.GetImage().GetImage() != "" {
			c.rec.Mounts = append(c.rec.Mounts, id+"-"+strconv.Itoa(i))
		}
	}
	c.op.Lock()
	defer c.op.Unlock()
	if err := t.make(ctx, c); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		if err := t.remove(undo, c); err != nil {
			t.m.log.Warn("runtime: what is left of a container that failed could not be removed", zap.String("container", id), zap.Error(err))
			t.m.table.release(containerName(config.Metadata, s.id)) // its record is there for the next Open to end it
		}
		return nil, fmt.Errorf("runtime: container %s: %w", config.Metadata.Name, err)
	}
	t.m.table.addContainer(c)
	t.m.hub.publish(id, s.id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// image finds one that a config names.
func (t *containers) image(spec *runtimeapi.ImageSpec) (Image, error) {
	image, err := t.m.cfg.Images.Resolve(spec.GetImage())
	if errors.Is(err, ErrNoImage) {
		return Image{}, status.Errorf(codes.NotFound, "runtime: image %q: %v", spec.GetImage(), err)
	}
	if err != nil {
		return Image{}, fmt.Errorf("runtime: image %q: %w", spec.GetImage(), err)
	}
	return image, nil
}

// make takes the steps from a record to a container that can be started.
func (t *containers) make(ctx context.Context, c *container) error {
	if err := t.save(c); err != nil {
		return err
	}
	bundle := t.m.bundle(c.id)
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(rootfs, 0o711); err != nil {
		return err
	}
	uids, gids := mappings(c.sandbox.record().Config.v)
	if err := t.m.cfg.Images.Mount(ctx, MountRequest{Key: c.id, Image: c.rec.Image.ID, Target: rootfs, UIDs: uids, GIDs: gids}); err != nil {
		return err
	}
	volumes, err := t.volumes(ctx, c)
	if err != nil {
		return err
	}
	built, err := t.build(c, rootfs, volumes)
	if err != nil {
		return err
	}
	if err := t.m.inject(built.Spec, c.rec.Config.v.CDIDevices); err != nil {
		return err
	}
	for _, w := range built.Warnings {
		t.m.log.Warn("runtime: "+w, zap.String("container", c.id))
	}
	data, err := json.Marshal(built.Spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		return err
	}
	if c.rec.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(c.rec.LogPath), 0o755); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	c.mu.Lock()
	c.rec.Phase, c.rec.User.v, c.rec.StopSignal = made, built.User, built.StopSignal
	c.mu.Unlock()
	return t.save(c)
}

// volumes mounts the images that a container mounts: a folder for each mount of its config, "" for those that are none.
func (t *containers) volumes(ctx context.Context, c *container) ([]string, error) {
	mounts := c.rec.Config.v.Mounts
	out := make([]string, len(mounts))
	uids, gids := mappings(c.sandbox.record().Config.v)
	for i, m := range mounts {
		if m.GetImage().GetImage() == "" {
			continue
		}
		image, err := t.image(m.Image)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.ContainerPath, err)
		}
		out[i] = filepath.Join(t.m.bundle(c.id), "volume-"+strconv.Itoa(i))
		if err := os.MkdirAll(out[i], 0o711); err != nil {
			return nil, err
		}
		key := c.id + "-" + strconv.Itoa(i)
		if err := t.m.cfg.Images.Mount(ctx, MountRequest{Key: key, Image: image.ID, Target: out[i], ReadOnly: true, UIDs: uids, GIDs: gids}); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.ContainerPath, err)
		}
	}
	return out, nil
}

// build makes the OCI configuration.
func (t *containers) build(c *container, rootfs string, volumes []string) (*spec.Result, error) {
	pod := c.sandbox.record()
	files, err := t.m.sandboxFiles(c.sandbox)
	if err != nil {
		return nil, err
	}
	spaces := pod.Spaces
	o := c.rec.Config.v.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if o == nil {
		o = options(pod.Config.v)
	}
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_CONTAINER:
		spaces.PID = ""
	case runtimeapi.NamespaceMode_NODE:
		spaces.PID, spaces.HostPID = "", true
	case runtimeapi.NamespaceMode_TARGET:
		target, err := t.target(c, o.TargetId)
		if err != nil {
			return nil, err
		}
		if target.HostPID {
			spaces.PID, spaces.HostPID = "", true
		} else {
			spaces.PID = target.PID
		}
	}
	return spec.Build(&spec.Container{
		ID: c.id, Config: c.rec.Config.v, Sandbox: pod.Config.v, Image: c.rec.Image.Config, Rootfs: rootfs, Host: t.m.host,
		Cgroup: c.rec.Cgroup, Files: files, Spaces: spaces, Images: volumes,
	})
}

// target is the pid namespace of another container of the pod.
func (t *containers) target(c *container, id string) (spec.Spaces, error) {
	other, err := t.m.table.container(id)
	if err != nil {
		return spec.Spaces{}, err
	}
	rec := other.record()
	if other.sandbox != c.sandbox {
		return spec.Spaces{}, fmt.Errorf("the target container %s is in another sandbox", id)
	}
	if rec.Run.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return spec.Spaces{}, fmt.Errorf("the target container %s is not running", id)
	}
	return spec.Spaces{PID: fmt.Sprintf("/proc/%d/ns/pid", rec.Run.Pid)}, nil
}

// RemoveContainer removes a container, which is killed if it runs. What is unknown is removed with success.
func (t *containers) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := t.m.table.container(req.GetContainerId())
	if status.Code(err) == codes.NotFound {
		return &runtimeapi.RemoveContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	c.sandbox.gate.RLock()
	defer c.sandbox.gate.RUnlock()
	c.op.Lock()
	defer c.op.Unlock()
	if t.m.table.knows(c) {
		err = t.remove(ctx, c)
	}
	return &runtimeapi.RemoveContainerResponse{}, err
}

// remove takes a container apart. It may be called again. The caller sees to it that nothing else happens to the container.
func (t *containers) remove(ctx context.Context, c *container) error {
	was := c.record()
	c.mu.Lock()
	c.rec.Phase = ending
	c.mu.Unlock()
	if err := t.save(c); err != nil {
		return err
	}
	if client := c.sandbox.client(); client != nil {
		if was.Run.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			if err := t.kill(ctx, c, client); err != nil {
				return err
			}
		}
		if err := ignoreMissing(client.Delete(ctx, c.id)); err != nil {
			return fmt.Errorf("runtime: container %s: %w", c.id, err)
		}
	}
	for _, key := range slices.Backward(was.Mounts) {
		if err := t.m.cfg.Images.Unmount(key); err != nil {
			return fmt.Errorf("runtime: container %s: %w", c.id, err)
		}
	}
	if err := clearDir(t.m.bundle(c.id)); err != nil {
		return fmt.Errorf("runtime: container %s: %w", c.id, err)
	}
	if err := t.m.tasks.drop(&c.page, c.id); err != nil {
		return err
	}
	t.m.table.dropContainer(c)
	if was.Phase != making {
		t.m.hub.publish(c.id, c.sandbox.id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	}
	return nil
}

// save writes a container down as it is now.
func (t *containers) save(c *container) error {
	return t.m.tasks.save(&c.page, c.id, c.record)
}
