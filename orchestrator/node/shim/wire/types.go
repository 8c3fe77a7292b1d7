package wire

import (
	"encoding/json"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Status is where a container is in its life.
type Status string

// A container is created with its process waiting, running, and stopped when its first process has ended.
const (
	Created Status = "created"
	Running Status = "running"
	Stopped Status = "stopped"
)

// State is what is known of a container.
type State struct {
	ID     string
	Pid    int // of its first process, on the host; 0 once it has stopped
	Status Status

	CreatedAt  time.Time
	StartedAt  time.Time // zero before it was started
	FinishedAt time.Time // zero before it stopped

	ExitCode  int    // 128 plus the signal when a signal ended it
	OOMKilled bool   // the kernel killed a process of it for want of memory
	Reason    string // why it stopped, in one word (Completed, Error, OOMKilled), or why it never ran
}

// SandboxSpec says which namespaces the containers of a pod share.
type SandboxSpec struct {
	// NetNS is the file that the network namespace is mounted on. If it is one already, that is joined; otherwise the shim
	// makes one (owned by the user namespace, where there is one), mounts it there, and removes it on Shutdown. Empty: the
	// host's.
	NetNS string

	IPC      bool   // an IPC namespace of its own, otherwise the host's
	UTS      bool   // a UTS namespace of its own, otherwise the host's
	Hostname string // set in the UTS namespace

	// PID asks for one PID namespace for all containers, with a pause process as its pid 1, which reaps what is orphaned.
	PID bool

	UserNS  *UserNS           // nil: the host's
	Sysctls map[string]string // net.*, kernel.shm*, fs.mqueue.* and the like, by their dotted or slashed names
}

// UserNS holds the mappings of a user namespace.
type UserNS struct {
	UIDs, GIDs []specs.LinuxIDMapping
}

// SandboxState tells how the namespaces of a sandbox are reached.
type SandboxState struct {
	// Namespaces has the path of each namespace that is not the host's, as it goes into linux.namespaces of a config.json.
	// The pid namespace is there only when it is shared.
	Namespaces map[specs.LinuxNamespaceType]string
	Pause      int // pid of the pause process on the host, 0 if there is none
}

// Container says what to create.
type Container struct {
	ID      string
	Bundle  string // folder with an OCI config.json; relative paths in it start there
	LogPath string // file of the log in CRI format; empty: no log is written

	Terminal  bool // as in the process of the config.json, which it overrides
	Stdin     bool // keep a standard input that clients of Attach write to
	StdinOnce bool // close it when the first client that wrote to it leaves

	SystemdCgroup bool // linux.cgroupsPath is slice:prefix:name
}

// ExecSpec says what to run in a container. What it leaves out is as in the container's own process.
type ExecSpec struct {
	Args     []string
	Env      []string // nil: the container's
	Cwd      string   // "": the container's
	Terminal bool
}

// Size is that of a terminal, in characters.
type Size struct {
	Width, Height uint16
}

// Request is what a client asks for.
type Request struct {
	Op        string
	ID        string                `json:",omitempty"`
	Signal    int                   `json:",omitempty"`
	Container *Container            `json:",omitempty"`
	Sandbox   *SandboxSpec          `json:",omitempty"`
	Exec      *ExecSpec             `json:",omitempty"`
	Streams   Streams               `json:",omitzero"`
	Resources *specs.LinuxResources `json:",omitempty"`
}

// Streams says which of the standard streams a client has sent a file for, in this order.
type Streams struct {
	Stdin, Stdout, Stderr bool
}

// Count is how many files there are.
func (s Streams) Count() (n int) {
	for _, has := range []bool{s.Stdin, s.Stdout, s.Stderr} {
		if has {
			n++
		}
	}
	return n
}

// Reply is what the shim answers.
type Reply struct {
	Error   string          `json:",omitempty"`
	Code    Code            `json:",omitempty"`
	Pid     int             `json:",omitempty"`
	Exit    *int            `json:",omitempty"`
	Sandbox *SandboxState   `json:",omitempty"`
	State   *State          `json:",omitempty"`
	States  []State         `json:",omitempty"`
	Stats   json.RawMessage `json:",omitempty"`
}

// Code tells errors apart that a caller acts on.
type Code string

// Codes of errors.
const (
	NotFound Code = "not found"
	Exists   Code = "exists"
	Wrong    Code = "wrong state"
)

// Operations of a Request.
const (
	OpPing     = "ping"
	OpSandbox  = "sandbox"
	OpCreate   = "create"
	OpStart    = "start"
	OpSignal   = "signal"
	OpDelete   = "delete"
	OpState    = "state"
	OpStates   = "states"
	OpEvents   = "events"
	OpExec     = "exec"
	OpAttach   = "attach"
	OpReopen   = "reopen"
	OpUpdate   = "update"
	OpStats    = "stats"
	OpShutdown = "shutdown"
)
