//go:build linux

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/spec"
)

// update changes limits: in the kernel if the container runs, in its configuration if it is to be started, and in its record.
func (t *containers) update(ctx context.Context, c *container, wanted *runtimeapi.LinuxContainerResources) error {
	rec := c.record()
	limits := merge(rec.Config.v.GetLinux().GetResources(), wanted)
	out, err := spec.Resources(limits, t.m.host)
	if err != nil {
		return err
	}
	switch rec.Run.State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		client := c.sandbox.client()
		if client == nil {
			return errors.New("its shim is gone")
		}
		if err := client.Update(ctx, c.id, out); err != nil {
			return err
		}
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		if err := t.rewrite(c.id, out); err != nil {
			return err
		}
	default:
		return fmt.Errorf("it is %s", stateName(rec.Run.State))
	}
	config := proto.CloneOf(rec.Config.v)
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	config.Linux.Resources = limits
	c.mu.Lock()
	c.rec.Config.v = config
	c.mu.Unlock()
	return t.save(c)
}

// rewrite puts limits into the configuration of a container that was not started yet.
func (t *containers) rewrite(id string, limits *specs.LinuxResources) error {
	path := filepath.Join(t.m.bundle(id), "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	limits.Devices = s.Linux.Resources.Devices
	s.Linux.Resources = limits
	if data, err = json.Marshal(s); err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// merge is old with what is set in wanted over it.
func merge(old, wanted *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{}
	if old != nil {
		out = proto.CloneOf(old)
	}
	if wanted.GetMemoryLimitInBytes() != 0 && wanted.GetMemorySwapLimitInBytes() == 0 {
		out.MemorySwapLimitInBytes = 0 // follows the new limit
	}
	if len(wanted.GetHugepageLimits()) > 0 {
		out.HugepageLimits = nil // those of wanted are the whole list
	}
	if wanted != nil {
		proto.Merge(out, wanted)
	}
	return out
}

// UpdatePodSandboxResources notes the sum of a pod's resources. Their cgroup is the agent's, who has changed it before.
func (p *sandboxes) UpdatePodSandboxResources(_ context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	s, err := p.m.table.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	config := proto.CloneOf(s.record().Config.v)
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	config.Linux.Overhead, config.Linux.Resources = req.Overhead, req.Resources
	s.mu.Lock()
	s.rec.Config.v = config
	s.mu.Unlock()
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, p.save(s)
}
