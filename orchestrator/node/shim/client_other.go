//go:build !linux

package shim

import (
	"context"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Client speaks to one shim. There is none here.
type Client struct{}

// Start returns ErrUnavailable.
func Start(context.Context, Config) (*Client, error) { return nil, ErrUnavailable }

// Connect returns ErrUnavailable.
func Connect(context.Context, string) (*Client, error) { return nil, ErrUnavailable }

// Clean returns ErrUnavailable.
func Clean(string) error { return ErrUnavailable }

// LastStates returns ErrUnavailable.
func LastStates(string) ([]State, error) { return nil, ErrUnavailable }

// Pid is 0.
func (*Client) Pid() int { return 0 }

// Dir is empty.
func (*Client) Dir() string { return "" }

// Sandbox returns ErrUnavailable.
func (*Client) Sandbox(context.Context, SandboxSpec) (SandboxState, error) {
	return SandboxState{}, ErrUnavailable
}

// Create returns ErrUnavailable.
func (*Client) Create(context.Context, Container) (int, error) { return 0, ErrUnavailable }

// Start returns ErrUnavailable.
func (*Client) Start(context.Context, string) error { return ErrUnavailable }

// Signal returns ErrUnavailable.
func (*Client) Signal(context.Context, string, syscall.Signal) error { return ErrUnavailable }

// Delete returns ErrUnavailable.
func (*Client) Delete(context.Context, string) error { return ErrUnavailable }

// State returns ErrUnavailable.
func (*Client) State(context.Context, string) (State, error) { return State{}, ErrUnavailable }

// States returns ErrUnavailable.
func (*Client) States(context.Context) ([]State, error) { return nil, ErrUnavailable }

// Events returns ErrUnavailable.
func (*Client) Events(context.Context) (<-chan State, error) { return nil, ErrUnavailable }

// Exec returns ErrUnavailable.
func (*Client) Exec(context.Context, string, ExecSpec, Streams) (int, error) {
	return 0, ErrUnavailable
}

// Attach returns ErrUnavailable.
func (*Client) Attach(context.Context, string, Streams) error { return ErrUnavailable }

// ReopenLog returns ErrUnavailable.
func (*Client) ReopenLog(context.Context, string) error { return ErrUnavailable }

// Update returns ErrUnavailable.
func (*Client) Update(context.Context, string, *specs.LinuxResources) error { return ErrUnavailable }

// Shutdown returns ErrUnavailable.
func (*Client) Shutdown(context.Context) error { return ErrUnavailable }
