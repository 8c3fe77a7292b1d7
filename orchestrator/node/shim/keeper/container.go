//go:build linux && cgo

package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

const (
	killing  = 10 * time.Second // how long killed processes may take to end
	draining = 5 * time.Second  // how long a stream may stay open after all processes have ended
)

// container is one of the pod's.
type container struct {
	id      string
	private bool           // it has a PID namespace of its own, which ends with its first process
	spec    *specs.Process // what Exec begins with
	rootIDs [2]int         // user and group on the host of its root
	stdio   *stdio
	manager cgroups.Manager
	stopped chan struct{} // closed when everything of it has ended
	oom     *oomWatch

	op   sync.Mutex // one at a time: start, exec, update, remove
	lib  *libcontainer.Container
	init *libcontainer.Process

	// Under the Keeper's lock.
	state   wire.State
	process ledger.Process
	cgroup  *cgroups.Cgroup
}

// create makes a container whose process waits to be started.
func (k *Keeper) create(req *wire.Container) (int, error) {
	c := &container{id: req.ID, stopped: make(chan struct{}), state: wire.State{ID: req.ID}}
	k.mu.Lock()
	if k.containers[req.ID] != nil {
		k.mu.Unlock()
		return 0, errorf(wire.Exists, "the container %q exists already", req.ID)
	}
	k.containers[req.ID] = c
	k.order = append(k.order, req.ID)
	k.mu.Unlock()
	c.op.Lock()
	defer c.op.Unlock()
	pid, err := k.build(c, req)
	if err != nil {
		k.forget(c)
		return 0, fmt.Errorf("create %s: %w", req.ID, err)
	}
	return pid, nil
}

func (k *Keeper) build(c *container, req *wire.Container) (pid int, err error) {
	bundle, err := load(req)
	if err != nil {
		return 0, err
	}
	started := k.starting() // it may run a helper to read the mappings of a user namespace
	config, err := bundle.config(req)
	started()
	if err != nil {
		return 0, err
	}
	if c.manager, err = manager.New(config.Cgroups); err != nil {
		return 0, err
	}
	k.mu.Lock()
	c.cgroup = config.Cgroups
	k.mu.Unlock()
	if err := k.save(); err != nil {
		return 0, err
	}
	if c.stdio, err = newStdio(req); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			c.stdio.close()
		}
	}()
	if c.lib, err = libcontainer.Create(k.stateDir(), c.id, config); err != nil {
		return 0, err
	}
	if pid, err = k.launch(c, bundle, config); err != nil {
		err = errors.Join(err, c.lib.Destroy())
		return 0, err
	}
	return pid, nil
}

// launch starts the first process, which waits for Start.
func (k *Keeper) launch(c *container, b *bundle, config *configs.Config) (pid int, err error) {
	c.private = config.Namespaces.IsPrivate(configs.NEWPID)
	c.spec = b.spec.Process
	if c.rootIDs[0], err = config.HostRootUID(); err != nil {
		return 0, err
	}
	if c.rootIDs[1], err = config.HostRootGID(); err != nil {
		return 0, err
	}
	if c.init, err = newProcess(c.spec); err != nil {
		return 0, err
	}
	c.init.Init = true
	finish, err := c.stdio.connect(c.init, c.spec.Terminal, c.rootIDs)
	if err != nil {
		return 0, err
	}
	pid, err = k.own(func() (int, error) {
		if err := c.lib.Start(c.init); err != nil {
			return 0, err
		}
		return c.init.Pid()
	})
	if err = finish(err); err != nil {
		if pid > 0 {
			_ = c.init.Signal(unix.SIGKILL)
			_ = await(c.init)
			k.disown(pid)
		}
		return 0, err
	}
	if c.oom, err = watchOOM(c.manager); err != nil {
		log.Printf("container %s: what the kernel kills for want of memory is seen at its end only: %v", c.id, err)
	}
	process, _ := ledger.Find(pid)
	k.set(c, func(s *wire.State) {
		c.process = process
		s.Pid, s.Status, s.CreatedAt = pid, wire.Created, time.Now().UTC()
	})
	go k.supervise(c, pid)
	return pid, nil
}

// supervise waits for the end of a container, and tells it when nothing of it runs and its log is complete.
func (k *Keeper) supervise(c *container, pid int) {
	code := await(c.init)
	finished := time.Now().UTC()
	k.disown(pid)
	oom := c.oom.happened(c.manager)
	if !c.private { // its other processes live on, but a container ends with its first one
		ctx, cancel := context.WithTimeout(context.Background(), killing)
		if err := ledger.KillAll(ctx, c.manager); err != nil {
			log.Printf("container %s: %v", c.id, err)
		}
		cancel()
	}
	c.stdio.drain(draining)
	k.set(c, func(s *wire.State) {
		s.Pid, s.Status, s.FinishedAt, s.ExitCode, s.OOMKilled = 0, wire.Stopped, finished, code, oom
		switch {
		case s.StartedAt.IsZero():
			s.Reason = "NotStarted"
		case oom && code != 0:
			s.Reason = "OOMKilled"
		case code != 0:
			s.Reason = "Error"
		default:
			s.Reason = "Completed"
		}
	})
	close(c.stopped)
	k.idle.Reset(quiet)
}

// start lets the process of a created container go.
func (k *Keeper) start(c *container) error {
	c.op.Lock()
	defer c.op.Unlock()
	k.mu.Lock()
	status := c.state.Status
	k.mu.Unlock()
	if status != wire.Created {
		return errorf(wire.Wrong, "start %s: it is %s", c.id, status)
	}
	// Before it runs, so that its end finds it started.
	k.set(c, func(s *wire.State) {
		if s.Status == wire.Created {
			s.Status, s.StartedAt = wire.Running, time.Now().UTC()
		}
	})
	if err := c.lib.Exec(); err != nil {
		_ = c.init.Signal(unix.SIGKILL)
		return fmt.Errorf("start %s: %w", c.id, err)
	}
	return nil
}

// signal sends a signal to the first process. SIGKILL ends every process of the container.
func (k *Keeper) signal(c *container, sig int) error {
	select {
	case <-c.stopped:
		return errorf(wire.Wrong, "signal %s: it has stopped", c.id)
	default:
	}
	if sig != int(unix.SIGKILL) {
		if err := c.init.Signal(unix.Signal(sig)); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signal %s: %w", c.id, err)
		}
		return nil
	}
	return c.kill()
}

func (c *container) kill() error {
	if c.private {
		err := c.init.Signal(unix.SIGKILL) // and the kernel kills what is in its PID namespace
		if frozen, _ := c.manager.GetFreezerState(); frozen == cgroups.Frozen {
			_ = c.manager.Freeze(cgroups.Thawed)
		}
		if err == nil || errors.Is(err, os.ErrProcessDone) {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), killing)
	defer cancel()
	return ledger.KillAll(ctx, c.manager)
}

// remove kills a container and removes what it was. One that is not there is no error.
func (k *Keeper) remove(id string) error {
	k.mu.Lock()
	c := k.containers[id]
	k.mu.Unlock()
	if c == nil {
		return nil
	}
	c.op.Lock()
	defer c.op.Unlock()
	k.mu.Lock()
	gone := k.containers[id] != c || c.state.Status == ""
	k.mu.Unlock()
	if gone { // removed meanwhile, or never made
		return nil
	}
	for stopped := false; !stopped; {
		if err := c.kill(); err != nil {
			return fmt.Errorf("delete %s: %w", id, err)
		}
		select {
		case <-c.stopped:
			stopped = true
		case <-time.After(killing):
			return fmt.Errorf("delete %s: its first process does not end", id)
		}
	}
	if err := c.lib.Destroy(); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	c.stdio.close()
	k.forget(c)
	return nil
}

func (k *Keeper) forget(c *container) {
	k.mu.Lock()
	delete(k.containers, c.id)
	k.order = slices.DeleteFunc(k.order, func(id string) bool { return id == c.id })
	k.mu.Unlock()
	if err := k.save(); err != nil {
		log.Print(err)
	}
}

// update changes the resources of a container.
func (k *Keeper) update(c *container, r *specs.LinuxResources) error {
	c.op.Lock()
	defer c.op.Unlock()
	config := c.lib.Config()
	group, err := updated(config.Cgroups, r)
	if err != nil {
		return fmt.Errorf("update %s: %w", c.id, err)
	}
	config.Cgroups = group
	err = c.lib.Set(config)
	group.SkipDevices = false // with it, nothing more could be started
	if err != nil {
		return fmt.Errorf("update %s: %w", c.id, err)
	}
	return nil
}

func (c *container) stats() (json.RawMessage, error) {
	stats, err := c.manager.GetStats()
	if err != nil {
		return nil, fmt.Errorf("stats %s: %w", c.id, err)
	}
	return json.Marshal(stats)
}

// shutdown removes everything but what holds the shim itself: its folder and its cgroup are left to the client.
func (k *Keeper) shutdown() error {
	k.mu.Lock()
	ids := slices.Clone(k.order)
	k.mu.Unlock()
	errs := make([]error, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() { errs[i] = k.remove(id) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	k.mu.Lock()
	s := k.sandbox
	k.sandbox = nil
	k.mu.Unlock()
	if s != nil {
		k.dropSandbox(s)
	}
	return nil
}
