//go:build linux

package runtime

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// info tells what the runtime is and can do.
type info struct {
	m *machine

	mu      sync.Mutex
	podCIDR string // as the agent has told
}

// readiness is what a Network may tell besides: an error says why no pod can be attached now.
type readiness interface{ Ready() error }

// Version names the runtime.
func (i *info) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "keelson", RuntimeVersion: i.m.cfg.Version, RuntimeApiVersion: "v1"}, nil
}

// Status tells whether pods can be run, and with which features.
func (i *info) Status(_ context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if n, ok := i.m.cfg.Network.(readiness); ok {
		if err := n.Ready(); err != nil {
			network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
		}
	}
	out := &runtimeapi.StatusResponse{
		Status:   &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, network}},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, UserNamespacesHostNetwork: true, MountOptions: true},
	}
	features := &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: kernelAtLeast(5, 12), UserNamespaces: kernelAtLeast(6, 3)}
	for _, name := range append([]string{""}, i.m.cfg.Handlers...) {
		out.RuntimeHandlers = append(out.RuntimeHandlers, &runtimeapi.RuntimeHandler{Name: name, Features: features})
	}
	if !req.GetVerbose() {
		return out, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	var err error
	out.Info, err = verbose(map[string]any{
		"root": i.m.cfg.Root, "state": i.m.cfg.State, "cgroupDriver": i.m.cfg.CgroupDriver, "cgroupParent": i.m.cfg.CgroupParent,
		"host": i.m.host, "golang": runtime.Version(), "podCIDR": i.podCIDR, "handlers": slices.Clone(i.m.cfg.Handlers),
	})
	return out, err
}

// kernelAtLeast compares the version of the kernel that runs.
func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var have [2]int
	at := 0
	for _, b := range u.Release {
		switch {
		case b >= '0' && b <= '9':
			have[at] = have[at]*10 + int(b-'0')
		case at == 0 && b == '.':
			at = 1
		default:
			return have[0] > major || have[0] == major && have[1] >= minor
		}
	}
	return have[0] > major || have[0] == major && have[1] >= minor
}

// UpdateRuntimeConfig notes the addresses of the node's pods. The network has them from the Node object.
func (i *info) UpdateRuntimeConfig(_ context.Context, req *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.podCIDR = req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

// RuntimeConfig tells which cgroup driver the agent is to use.
func (i *info) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if i.m.cfg.CgroupDriver == Systemd {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// CheckpointContainer is left out.
func (i *info) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return nil, status.Error(codes.Unimplemented, "runtime: checkpoints are left out")
}
