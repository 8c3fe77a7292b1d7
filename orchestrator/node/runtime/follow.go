//go:build linux

package runtime

import (
	"context"
	"errors"

	"go.uber.org/zap"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// follow keeps the containers of a sandbox as its shim says they are, in a goroutine that ends with the shim or with s.stop.
func (p *sandboxes) follow(s *sandbox, client shimClient) error {
	ctx, cancel := context.WithCancel(p.m.life)
	events, err := client.Events(ctx)
	if err != nil {
		cancel()
		return err
	}
	over := make(chan struct{})
	s.mu.Lock()
	s.over, s.stop = over, func() { cancel(); <-over }
	s.mu.Unlock()
	p.m.following.Add(1)
	go func() {
		defer p.m.following.Done()
		for {
			for st := range events {
				p.observe(st)
			}
			if events = p.again(ctx, s, client); events == nil {
				break
			}
		}
		close(over)
		if ctx.Err() == nil {
			p.lost(s)
		}
		cancel()
	}()
	return nil
}

// again subscribes anew to the events of a shim that runs, and catches up. It answers nil when there is nothing more to come.
func (p *sandboxes) again(ctx context.Context, s *sandbox, client shimClient) <-chan shim.State {
	if ctx.Err() != nil {
		return nil
	}
	events, err := client.Events(ctx)
	if err == nil {
		err = p.catchUp(ctx, client)
	}
	if err != nil {
		if ctx.Err() == nil {
			p.m.log.Warn("runtime: the shim of a sandbox does not answer any more", zap.String("sandbox", s.id), zap.Error(err))
		}
		return nil
	}
	return events
}

// catchUp takes over the states of all containers of a shim.
func (p *sandboxes) catchUp(ctx context.Context, client shimClient) error {
	states, err := client.States(ctx)
	for _, st := range states {
		p.observe(st)
	}
	return err
}

// observe takes over what a shim says of a container.
func (p *sandboxes) observe(st shim.State) {
	c, err := p.m.table.container(st.ID)
	if err != nil {
		return
	}
	now := run{Pid: st.Pid, StartedAt: st.StartedAt}
	switch st.Status {
	case shim.Running:
		now.State = runtimeapi.ContainerState_CONTAINER_RUNNING
	case shim.Stopped:
		now.State, now.Pid = runtimeapi.ContainerState_CONTAINER_EXITED, 0
		now.FinishedAt, now.ExitCode, now.Reason = st.FinishedAt, st.ExitCode, st.Reason
		switch {
		case st.OOMKilled:
			now.Reason = "OOMKilled"
		case now.Reason == "" && st.ExitCode == 0:
			now.Reason = "Completed"
		case now.Reason == "":
			now.Reason = "Error"
		}
	default:
		return
	}
	p.containers.settle(c, now)
}

// lost is called when the shim of a sandbox has died by itself: the sandbox is not ready from now on, its containers ended
// with it, and what is left of it is removed.
func (p *sandboxes) lost(s *sandbox) {
	s.mu.Lock()
	s.rec.Reason, s.shim = "its shim is gone", nil
	s.mu.Unlock()
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := p.end(p.m.life, s); err != nil && !errors.Is(err, context.Canceled) {
		p.m.log.Error("runtime: what a dead shim left could not be removed", zap.String("sandbox", s.id), zap.Error(err))
	}
}
