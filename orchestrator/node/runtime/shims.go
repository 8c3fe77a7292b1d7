//go:build linux

package runtime

import (
	"context"
	"syscall"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// shimClient speaks to the shim of a sandbox. *shim.Client is one.
type shimClient interface {
	shimSandbox
	shimContainers
	shimStreams
}

// shimSandbox is what a shim does as a whole.
type shimSandbox interface {
	Pid() int
	Sandbox(context.Context, shim.SandboxSpec) (shim.SandboxState, error)
	States(context.Context) ([]shim.State, error)
	Events(context.Context) (<-chan shim.State, error)
	Shutdown(context.Context) error
}

// shimContainers is what a shim does to containers.
type shimContainers interface {
	Create(context.Context, shim.Container) (pid int, err error)
	Start(ctx context.Context, id string) error
	Signal(ctx context.Context, id string, signal syscall.Signal) error
	Delete(ctx context.Context, id string) error
	State(ctx context.Context, id string) (shim.State, error)
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	Stats(ctx context.Context, id string) (*cgroups.Stats, error)
	ReopenLog(ctx context.Context, id string) error
}

// shimStreams is what a shim does with streams.
type shimStreams interface {
	Exec(ctx context.Context, id string, e shim.ExecSpec, s shim.Streams) (exit int, err error)
	Attach(ctx context.Context, id string, s shim.Streams) error
}

// shims starts shims and finds those that run.
type shims struct {
	start   func(context.Context, shim.Config) (shimClient, error)
	connect func(ctx context.Context, dir string) (shimClient, error) // shim.ErrGone if its process is dead
	last    func(dir string) ([]shim.State, error)                    // of the containers of a dead one
	clean   func(dir string) error                                    // kills and removes what a dead one left
}

// realShims are processes.
func realShims() shims {
	client := func(c *shim.Client, err error) (shimClient, error) {
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return shims{
		start:   func(ctx context.Context, cfg shim.Config) (shimClient, error) { return client(shim.Start(ctx, cfg)) },
		connect: func(ctx context.Context, dir string) (shimClient, error) { return client(shim.Connect(ctx, dir)) },
		last:    shim.LastStates,
		clean:   shim.Clean,
	}
}
