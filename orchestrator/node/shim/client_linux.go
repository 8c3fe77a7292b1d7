package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// Client speaks to one shim. It holds nothing open between calls, so there is nothing to close.
type Client struct {
	dir string
	pid int
}

// Connect finds the shim of a folder. The error Is ErrGone if its process is dead: then Clean removes what it left.
func Connect(ctx context.Context, dir string) (*Client, error) {
	c := &Client{dir: dir}
	reply, err := c.call(ctx, &wire.Request{Op: wire.OpPing})
	if err != nil {
		return nil, err
	}
	c.pid = reply.Pid
	return c, nil
}

// Pid is that of the shim's process.
func (c *Client) Pid() int { return c.pid }

// Dir is the shim's folder.
func (c *Client) Dir() string { return c.dir }

// Sandbox makes the namespaces that the containers are to share. It is called once, before the first Create.
func (c *Client) Sandbox(ctx context.Context, spec SandboxSpec) (SandboxState, error) {
	reply, err := c.call(ctx, &wire.Request{Op: wire.OpSandbox, Sandbox: &spec})
	if err != nil || reply.Sandbox == nil {
		return SandboxState{}, err
	}
	return *reply.Sandbox, nil
}

// Create makes a container; its process waits for Start. It returns the process's pid on the host.
func (c *Client) Create(ctx context.Context, container Container) (pid int, err error) {
	reply, err := c.call(ctx, &wire.Request{Op: wire.OpCreate, Container: &container})
	return reply.Pid, err
}

// Start lets the process of a created container run.
func (c *Client) Start(ctx context.Context, id string) error {
	_, err := c.call(ctx, &wire.Request{Op: wire.OpStart, ID: id})
	return err
}

// Signal sends a signal to the first process of a container. SIGKILL ends all its processes. The error Is ErrState if the
// container has stopped.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	_, err := c.call(ctx, &wire.Request{Op: wire.OpSignal, ID: id, Signal: int(sig)})
	return err
}

// Delete kills a container if it still runs and removes everything of it but its log. One that is not there is no error.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.call(ctx, &wire.Request{Op: wire.OpDelete, ID: id})
	return err
}

// State tells what is known of a container.
func (c *Client) State(ctx context.Context, id string) (State, error) {
	reply, err := c.call(ctx, &wire.Request{Op: wire.OpState, ID: id})
	if err != nil || reply.State == nil {
		return State{}, err
	}
	return *reply.State, nil
}

// States tells what is known of all containers, in the order in which they were created.
func (c *Client) States(ctx context.Context) ([]State, error) {
	reply, err := c.call(ctx, &wire.Request{Op: wire.OpStates})
	return reply.States, err
}

// ReopenLog goes on in a new file at the log's path: the caller has renamed the old one.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	_, err := c.call(ctx, &wire.Request{Op: wire.OpReopen, ID: id})
	return err
}

// Update changes the resources of a running container. What r leaves out stays.
func (c *Client) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	_, err := c.call(ctx, &wire.Request{Op: wire.OpUpdate, ID: id, Resources: r})
	return err
}

// Stats reads the counters of a container's cgroup.
func (c *Client) Stats(ctx context.Context, id string) (*cgroups.Stats, error) {
	reply, err := c.call(ctx, &wire.Request{Op: wire.OpStats, ID: id})
	if err != nil {
		return nil, err
	}
	stats := &cgroups.Stats{}
	if err := json.Unmarshal(reply.Stats, stats); err != nil {
		return nil, fmt.Errorf("shim: stats of %s: %w", id, err)
	}
	return stats, nil
}

// Shutdown kills and deletes all containers, removes the sandbox, and ends the shim; nothing of it is left then, its folder
// neither, unless something else lies in it.
func (c *Client) Shutdown(ctx context.Context) error {
	if _, err := c.call(ctx, &wire.Request{Op: wire.OpShutdown}); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	if err := ledger.Wait(ctx, c.pid); err != nil {
		return fmt.Errorf("shim: wait for its end: %w", err)
	}
	return Clean(c.dir)
}

// Events sends the present state of every container, and then every change of one. The channel is closed when the context
// ends or the shim is gone.
func (c *Client) Events(ctx context.Context) (<-chan State, error) {
	conn, hangup, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := conn.Send(wire.Request{Op: wire.OpEvents}); err != nil {
		hangup()
		return nil, c.failed(ctx, err)
	}
	events := make(chan State)
	go func() {
		defer close(events)
		defer hangup()
		for {
			var reply wire.Reply
			if _, err := conn.Receive(&reply); err != nil || reply.State == nil {
				return
			}
			select {
			case events <- *reply.State:
			case <-ctx.Done():
				return
			}
		}
	}()
	return events, nil
}

// Clean kills and removes what the shim of a folder left: the processes of its containers, their cgroups, its mounts, its own
// process if it still runs, and its files in the folder. It may be called again after an error, and where nothing is left.
func Clean(dir string) error { return ledger.Clean(dir) }

// LastStates tells the states of the containers of a shim that is gone, as it last wrote them down. One that was not stopped
// then has been killed, or will be by Clean.
func LastStates(dir string) ([]State, error) {
	l, err := ledger.Read(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	states := []State{}
	for _, c := range l.Containers {
		if c.State.Status != "" {
			states = append(states, c.State)
		}
	}
	return states, nil
}

// dial connects. hangup closes the connection, as does the end of the context.
func (c *Client) dial(ctx context.Context) (_ wire.Conn, hangup func(), err error) {
	path, done, err := ledger.SocketPath(c.dir)
	if err != nil {
		return wire.Conn{}, nil, c.failed(ctx, err)
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return wire.Conn{}, nil, c.failed(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	return wire.Conn{UnixConn: conn.(*net.UnixConn)}, func() {
		stop()
		_ = conn.Close()
	}, nil
}

// call asks and waits for the answer.
func (c *Client) call(ctx context.Context, req *wire.Request) (reply wire.Reply, err error) {
	conn, hangup, err := c.dial(ctx)
	if err != nil {
		return reply, err
	}
	defer hangup()
	if err := conn.Send(req); err != nil {
		return reply, c.failed(ctx, err)
	}
	if _, err := conn.Receive(&reply); err != nil {
		return reply, c.failed(ctx, err)
	}
	return reply, errorOf(&reply)
}

// failed says why a connection failed: the caller gave up, the shim is gone, or something else.
func (c *Client) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("shim: %w", context.Cause(ctx))
	}
	l, lerr := ledger.Read(c.dir)
	if errors.Is(lerr, os.ErrNotExist) || lerr == nil && !l.Shim.Alive() {
		return fmt.Errorf("%w: %s", ErrGone, c.dir)
	}
	return fmt.Errorf("shim: %s: %w", c.dir, err)
}

func errorOf(reply *wire.Reply) error {
	if reply.Error == "" {
		return nil
	}
	switch reply.Code {
	case wire.NotFound:
		return fmt.Errorf("%w: %s", ErrNotFound, reply.Error)
	case wire.Exists:
		return fmt.Errorf("%w: %s", ErrExists, reply.Error)
	case wire.Wrong:
		return fmt.Errorf("%w: %s", ErrState, reply.Error)
	}
	return errors.New("shim: " + reply.Error)
}
