//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/spec"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// startFailed is the exit code of a container whose command could not be started.
const startFailed = 128

// StartContainer starts the process of a container that was created. One that cannot be started has ended with code 128.
func (t *containers) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := t.m.table.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.sandbox.gate.RLock()
	defer c.sandbox.gate.RUnlock()
	c.op.Lock()
	defer c.op.Unlock()
	rec := c.record()
	if rec.Run.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, status.Errorf(codes.FailedPrecondition, "runtime: container %s is %s: only a created one can be started", c.id, stateName(rec.Run.State))
	}
	client := c.sandbox.client()
	if client == nil || !c.sandbox.record().ready() {
		return nil, status.Errorf(codes.FailedPrecondition, "runtime: container %s: its sandbox is not ready", c.id)
	}
	pid, err := t.start(ctx, client, rec)
	if err != nil {
		if err := ignoreMissing(client.Delete(context.WithoutCancel(ctx), c.id)); err != nil {
			t.m.log.Warn("runtime: a container that was not started could not be removed from its shim", zap.String("container", c.id), zap.Error(err))
		}
		t.settle(c, run{
			State: runtimeapi.ContainerState_CONTAINER_EXITED, ExitCode: startFailed, Reason: "StartError", Message: err.Error(),
			FinishedAt: t.m.clock.Now(),
		})
		return nil, fmt.Errorf("runtime: container %s: %w", rec.Config.v.Metadata.Name, err)
	}
	t.settle(c, run{State: runtimeapi.ContainerState_CONTAINER_RUNNING, Pid: pid, StartedAt: t.m.clock.Now()})
	return &runtimeapi.StartContainerResponse{}, nil
}

// start has the shim create the process and let it go.
func (t *containers) start(ctx context.Context, client shimClient, rec containerRecord) (int, error) {
	config := rec.Config.v
	pid, err := client.Create(ctx, shim.Container{
		ID: rec.ID, Bundle: t.m.bundle(rec.ID), LogPath: rec.LogPath, Terminal: config.Tty, Stdin: config.Stdin, StdinOnce: config.StdinOnce,
		SystemdCgroup: t.m.cfg.CgroupDriver == Systemd,
	})
	if err != nil {
		return 0, err
	}
	return pid, client.Start(ctx, rec.ID)
}

// settle takes over what is known of a container's process, if that is news: a container is created, runs, and has ended.
func (t *containers) settle(c *container, now run) {
	c.mu.Lock()
	was := c.rec.Run
	rank := func(s runtimeapi.ContainerState) int { return int(s) } // created 0, running 1, exited 2
	if rank(now.State) <= rank(was.State) {
		c.mu.Unlock()
		return
	}
	if now.StartedAt.IsZero() {
		now.StartedAt = was.StartedAt
	}
	c.rec.Run = now
	over := now.State == runtimeapi.ContainerState_CONTAINER_EXITED
	c.mu.Unlock()
	if err := t.save(c); err != nil {
		t.m.log.Error("runtime: the state of a container could not be written down", zap.String("container", c.id), zap.Error(err))
	}
	if !now.StartedAt.IsZero() && was.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		t.m.hub.publish(c.id, c.sandbox.id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	}
	if over {
		close(c.exited)
		t.m.hub.publish(c.id, c.sandbox.id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
}

// StopContainer asks a container to end, and kills it when the time given is over. What has ended or is unknown is stopped
// with success.
func (t *containers) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := t.m.table.container(req.GetContainerId())
	if status.Code(err) == codes.NotFound {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	rec, client := c.record(), c.sandbox.client()
	if rec.Run.State != runtimeapi.ContainerState_CONTAINER_RUNNING || client == nil {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	if req.GetTimeout() > 0 {
		if err := t.signal(ctx, client, c.id, syscall.Signal(spec.SignalNumber(rec.StopSignal))); err != nil {
			return nil, err
		}
		timer := t.m.clock.NewTimer(time.Duration(req.Timeout) * time.Second)
		defer timer.Stop()
		select {
		case <-c.exited:
			return &runtimeapi.StopContainerResponse{}, nil
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-timer.C():
		}
	}
	return &runtimeapi.StopContainerResponse{}, t.kill(ctx, c, client)
}

// kill ends a container that runs, and waits until it has ended or its shim has.
func (t *containers) kill(ctx context.Context, c *container, client shimClient) error {
	if err := t.signal(ctx, client, c.id, syscall.SIGKILL); err != nil {
		return err
	}
	c.sandbox.mu.Lock()
	over := c.sandbox.over
	c.sandbox.mu.Unlock()
	select {
	case <-c.exited:
		return nil
	case <-over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("runtime: container %s was killed and has not ended: %w", c.id, ctx.Err())
	}
}

// signal sends one. That the process is gone is no error.
func (t *containers) signal(ctx context.Context, client shimClient, id string, number syscall.Signal) error {
	err := client.Signal(ctx, id, number)
	if errors.Is(err, shim.ErrState) {
		return nil
	}
	if err := ignoreMissing(err); err != nil {
		return fmt.Errorf("runtime: container %s: %w", id, err)
	}
	return nil
}

// ignoreMissing takes for success that what was to be ended is not there.
func ignoreMissing(err error) error {
	if errors.Is(err, shim.ErrNotFound) || errors.Is(err, shim.ErrGone) {
		return nil
	}
	return err
}

// stateName is a state in a sentence.
func stateName(s runtimeapi.ContainerState) string {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return "created"
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return "running"
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return "exited"
	}
	return "in an unknown state"
}

// UpdateContainerResources changes the limits of a container, running or not.
func (t *containers) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := t.m.table.container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.sandbox.gate.RLock()
	defer c.sandbox.gate.RUnlock()
	c.op.Lock()
	defer c.op.Unlock()
	if err := t.update(ctx, c, req.GetLinux()); err != nil {
		return nil, fmt.Errorf("runtime: container %s: %w", c.id, err)
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog has a container that runs write to a new file of the old name.
func (t *containers) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, client, err := t.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := client.ReopenLog(ctx, c.id); err != nil {
		return nil, fmt.Errorf("runtime: container %s: %w", c.id, err)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// running finds a container that runs, and its shim.
func (t *containers) running(id string) (*container, shimClient, error) {
	c, err := t.m.table.container(id)
	if err != nil {
		return nil, nil, err
	}
	state, client := c.record().Run.State, c.sandbox.client()
	if state != runtimeapi.ContainerState_CONTAINER_RUNNING || client == nil {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "runtime: container %s is not running, it is %s", c.id, stateName(state))
	}
	return c, client, nil
}
