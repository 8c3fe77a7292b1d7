//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/spec"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// sandboxes runs, stops and removes them.
type sandboxes struct {
	m          *machine
	containers *containers
}

// RunPodSandbox makes a sandbox. What fails leaves nothing behind.
func (p *sandboxes) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	config := req.GetConfig()
	if err := p.check(config, req.GetRuntimeHandler()); err != nil {
		return nil, err
	}
	id := newID()
	name := sandboxName(config.Metadata)
	if err := p.m.table.reserve("sandbox", name, id); err != nil {
		return nil, err
	}
	s := &sandbox{id: id, rec: sandboxRecord{
		ID: id, Phase: making, Handler: req.GetRuntimeHandler(), CreatedAt: p.m.clock.Now(), Cgroup: config.GetLinux().GetCgroupParent(),
	}}
	s.rec.Config.v = config
	if options(config).GetNetwork() != runtimeapi.NamespaceMode_NODE {
		s.rec.NetNS = p.m.netns(id)
	}
	if s.rec.Cgroup == "" {
		s.rec.Cgroup, s.rec.OwnCgroup = p.m.ownCgroup(id), true
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := p.make(ctx, s); err != nil {
		p.undo(ctx, s)
		return nil, fmt.Errorf("runtime: sandbox of pod %s/%s: %w", config.Metadata.Namespace, config.Metadata.Name, err)
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// check refuses what cannot be run.
func (p *sandboxes) check(config *runtimeapi.PodSandboxConfig, handler string) error {
	sc := config.GetLinux().GetSecurityContext()
	switch {
	case config.GetMetadata().GetName() == "":
		return status.Error(codes.InvalidArgument, "runtime: the sandbox has no name")
	case handler != "" && !slices.Contains(p.m.cfg.Handlers, handler):
		return status.Errorf(codes.NotFound, "runtime: no runtime for %q is configured", handler)
	case sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil:
		return status.Error(codes.InvalidArgument, "runtime: a group is set without a user")
	}
	return nil
}

// make takes the steps from a record to a sandbox that is ready.
func (p *sandboxes) make(ctx context.Context, s *sandbox) error {
	if err := p.save(s); err != nil {
		return err
	}
	if err := p.files(s); err != nil {
		return err
	}
	client, err := p.m.shims.start(ctx, shim.Config{
		Dir: p.m.shimDir(s.id), Command: p.m.cfg.ShimCommand, Cgroup: p.m.shimCgroup(s.id), OOMScoreAdj: shimOOMScore,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.shim = client
	s.mu.Unlock()
	config := s.rec.Config.v
	if err := p.namespaces(ctx, s, client, config); err != nil {
		return err
	}
	if s.rec.NetNS != "" {
		addresses, err := p.m.cfg.Network.Attach(ctx, s.id, s.rec.NetNS, config)
		if err != nil {
			return fmt.Errorf("network: %w", err)
		}
		s.mu.Lock()
		s.rec.Addresses = addresses
		s.mu.Unlock()
	}
	if err := p.hosts(s); err != nil {
		return err
	}
	if err := p.follow(s, client); err != nil {
		return err
	}
	s.mu.Lock()
	s.rec.Phase = made
	s.mu.Unlock()
	if err := p.save(s); err != nil {
		return err
	}
	p.m.table.addSandbox(s)
	p.m.hub.publish(s.id, s.id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	p.m.hub.publish(s.id, s.id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return nil
}

// shimOOMScore keeps the kernel from killing a shim before the containers that it holds.
const shimOOMScore = -998

// options are the namespaces that a sandbox is to have.
func options(config *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// namespaces has the shim make them.
func (p *sandboxes) namespaces(ctx context.Context, s *sandbox, client shimClient, config *runtimeapi.PodSandboxConfig) error {
	o := options(config)
	want := shim.SandboxSpec{
		NetNS: s.rec.NetNS, IPC: o.GetIpc() != runtimeapi.NamespaceMode_NODE, UTS: s.rec.NetNS != "", Hostname: config.Hostname,
		PID: o.GetPid() == runtimeapi.NamespaceMode_POD, Sysctls: map[string]string{},
	}
	uids, gids := mappings(config)
	if uids != nil {
		want.UserNS = &shim.UserNS{UIDs: uids, GIDs: gids}
	}
	if s.rec.NetNS != "" { // what is safe inside a network namespace of one's own
		want.Sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		if uids == nil {
			want.Sysctls["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	for k, v := range config.GetLinux().GetSysctls() {
		want.Sysctls[k] = v
	}
	state, err := client.Sandbox(ctx, want)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec.Spaces = spec.Spaces{
		Network: state.Namespaces[specs.NetworkNamespace], IPC: state.Namespaces[specs.IPCNamespace],
		UTS: state.Namespaces[specs.UTSNamespace], User: state.Namespaces[specs.UserNamespace], PID: state.Namespaces[specs.PIDNamespace],
	}
	if s.rec.NetNS != "" {
		s.rec.Spaces.Network = s.rec.NetNS
	}
	return nil
}

// mappings of the user namespace of a sandbox, nil if it is the host's.
func mappings(config *runtimeapi.PodSandboxConfig) (uids, gids []specs.LinuxIDMapping) {
	o := options(config).GetUsernsOptions()
	if o == nil || o.Mode != runtimeapi.NamespaceMode_POD {
		return nil, nil
	}
	return spec.IDMappings(o.Uids), spec.IDMappings(o.Gids)
}

// undoPatience bounds the removal of what failed.
const undoPatience = time.Minute

// undo removes what a failed make left. If that fails too, the sandbox stays, not ready, so that it can be stopped again.
func (p *sandboxes) undo(ctx context.Context, s *sandbox) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
	defer cancel()
	err := p.end(ctx, s)
	if err == nil {
		err = p.forget(s)
	}
	if err == nil {
		return
	}
	p.m.log.Warn("runtime: what is left of a sandbox that failed could not be removed", zap.String("sandbox", s.id), zap.Error(err))
	s.mu.Lock()
	s.rec.Reason = "it could not be made"
	s.mu.Unlock()
	p.m.table.addSandbox(s)
}

// StopPodSandbox ends its containers, its shim and its network. What is stopped or unknown is stopped with success.
func (p *sandboxes) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	s, err := p.m.table.sandbox(req.GetPodSandboxId())
	if status.Code(err) == codes.NotFound {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := p.end(ctx, s); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox removes a sandbox with its containers. What is unknown is removed with success.
func (p *sandboxes) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	s, err := p.m.table.sandbox(req.GetPodSandboxId())
	if status.Code(err) == codes.NotFound {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := p.end(ctx, s); err != nil {
		return nil, err
	}
	for _, c := range p.m.table.allContainers(s.id) {
		if err := p.containers.remove(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := p.forget(s); err != nil {
		return nil, err
	}
	p.m.hub.publish(s.id, s.id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// end removes all of a sandbox but its record and its containers' file systems. It may be called again. The caller holds the gate.
func (p *sandboxes) end(ctx context.Context, s *sandbox) error {
	rec := s.record()
	if rec.Phase == ended {
		return nil
	}
	s.mu.Lock()
	s.rec.Phase = ending
	s.mu.Unlock()
	if err := p.save(s); err != nil {
		return err
	}
	if err := p.killAll(ctx, s); err != nil {
		return err
	}
	if rec.NetNS != "" {
		if err := p.m.cfg.Network.Detach(ctx, s.id, rec.NetNS, rec.Config.v); err != nil {
			return fmt.Errorf("runtime: sandbox %s: network: %w", s.id, err)
		}
	}
	if err := p.endShim(ctx, s); err != nil {
		return err
	}
	if err := p.removeFiles(s, rec); err != nil {
		return err
	}
	s.mu.Lock()
	s.rec.Phase = ended
	s.mu.Unlock()
	if rec.Phase == made {
		p.m.hub.publish(s.id, s.id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	return p.save(s)
}

// killAll ends the containers of a sandbox, as far as a shim still holds them.
func (p *sandboxes) killAll(ctx context.Context, s *sandbox) error {
	client := s.client()
	if client == nil {
		return nil
	}
	var g errgroup.Group
	for _, c := range p.m.table.allContainers(s.id) {
		if c.record().Run.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			g.Go(func() error { return p.containers.kill(ctx, c, client) })
		}
	}
	return g.Wait()
}

// endShim has the shim of a sandbox end, or removes what a dead one left.
func (p *sandboxes) endShim(ctx context.Context, s *sandbox) error {
	s.mu.Lock()
	client, stop := s.shim, s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
	dir := p.m.shimDir(s.id)
	if client != nil { // else it is dead, or was being born when the runtime before this one died: clean sees to both
		if err := client.Shutdown(ctx); err != nil && !errors.Is(err, shim.ErrGone) {
			return fmt.Errorf("runtime: sandbox %s: %w", s.id, err)
		}
	}
	s.mu.Lock()
	s.shim = nil
	s.mu.Unlock()
	last, err := p.m.shims.last(dir)
	if err != nil {
		p.m.log.Warn("runtime: what became of the containers of a dead shim cannot be read", zap.String("sandbox", s.id), zap.Error(err))
	}
	for _, st := range last {
		if st.Status == shim.Stopped {
			p.observe(st)
		}
	}
	if err := p.m.shims.clean(dir); err != nil {
		return fmt.Errorf("runtime: sandbox %s: %w", s.id, err)
	}
	for _, c := range p.m.table.allContainers(s.id) {
		p.containers.settle(c, run{
			State: runtimeapi.ContainerState_CONTAINER_EXITED, ExitCode: 128 + int(unix.SIGKILL), Reason: reasonLost,
			Message: "the process that owned the container is gone", FinishedAt: p.m.clock.Now(),
		})
	}
	return nil
}

// reasonLost is why containers ended whose shim died, in one word.
const reasonLost = "ContainerStatusUnknown"

// forget removes the last of a sandbox that was ended.
func (p *sandboxes) forget(s *sandbox) error {
	if err := p.m.pods.drop(&s.page, s.id); err != nil {
		return err
	}
	p.m.table.dropSandbox(s)
	return nil
}

// save writes a sandbox down as it is now.
func (p *sandboxes) save(s *sandbox) error { return p.m.pods.save(&s.page, s.id, s.record) }
