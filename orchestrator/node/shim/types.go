package shim

import (
	"errors"
	"io"

	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// The types of the API are those of the wire.
type (
	State        = wire.State
	Status       = wire.Status
	SandboxSpec  = wire.SandboxSpec
	SandboxState = wire.SandboxState
	UserNS       = wire.UserNS
	Container    = wire.Container
	ExecSpec     = wire.ExecSpec
	Size         = wire.Size
)

// Where a container is in its life.
const (
	Created = wire.Created
	Running = wire.Running
	Stopped = wire.Stopped
)

// Errors that callers tell apart with errors.Is.
var (
	ErrGone        = errors.New("shim: its process is gone")
	ErrNotFound    = errors.New("shim: no such container")
	ErrExists      = errors.New("shim: the container exists already")
	ErrState       = errors.New("shim: the container's state does not allow it")
	ErrUnavailable = errors.New("shim: this build has no container runtime: it needs Linux and cgo")
)

// Config says how a shim is started.
type Config struct {
	Dir     string   // folder of the shim's own, made if it is missing: socket, state, log
	Command []string // program that calls Reexec, and its arguments; default: /proc/self/exe

	// Cgroup is the cgroup that the shim moves itself into, from the root of each hierarchy (/kubepods/pod1/shim); it is
	// made if it is missing and removed on Shutdown. Empty: it stays in that of its parent.
	Cgroup      string
	OOMScoreAdj int // -1000 to 1000; 0: as its parent's. What the kernel refuses is left as it was
}

// Streams are the ends of an Exec or Attach. Nil is none.
type Streams struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer   // with a terminal all output is Stdout
	Resize <-chan Size // sizes for the terminal
}
