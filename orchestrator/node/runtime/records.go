//go:build linux

package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/spec"
)

// phase is how far the making or ending of something is. What is not made is undone after a crash.
type phase string

const (
	making phase = "making"
	made   phase = "made"
	ending phase = "ending" // a sandbox's processes and network are being removed, or all of a container
	ended  phase = "ended"  // of a sandbox: nothing is left but the record and the containers' file systems
)

// sandboxRecord is what is written down of a sandbox.
type sandboxRecord struct {
	ID        string
	Phase     phase
	Config    message[runtimeapi.PodSandboxConfig, *runtimeapi.PodSandboxConfig]
	Handler   string
	CreatedAt time.Time
	Addresses []netip.Addr `json:",omitempty"`
	Spaces    spec.Spaces
	NetNS     string `json:",omitempty"` // the file under which the network namespace is pinned, "" for the host's
	Cgroup    string // parent of the containers' cgroups, as CRI gives it
	OwnCgroup bool   `json:",omitempty"` // the parent is the runtime's own and ends with the sandbox
	Reason    string `json:",omitempty"` // why it is not ready
}

// containerRecord is what is written down of a container.
type containerRecord struct {
	ID         string
	Sandbox    string
	Phase      phase
	Config     message[runtimeapi.ContainerConfig, *runtimeapi.ContainerConfig]
	Image      Image
	CreatedAt  time.Time
	LogPath    string   `json:",omitempty"`
	Mounts     []string // keys of its images in the store
	User       message[runtimeapi.LinuxContainerUser, *runtimeapi.LinuxContainerUser]
	StopSignal runtimeapi.Signal
	Cgroup     string // as OCI's cgroupsPath
	Run        run
}

// run is what became of a container's process.
type run struct {
	State      runtimeapi.ContainerState
	Pid        int       `json:",omitempty"`
	StartedAt  time.Time `json:",omitzero"`
	FinishedAt time.Time `json:",omitzero"`
	ExitCode   int       `json:",omitempty"`
	Reason     string    `json:",omitempty"`
	Message    string    `json:",omitempty"`
}

// message is a message of CRI inside JSON.
type message[T any, M interface {
	*T
	proto.Message
}] struct{ v M }

func (m message[T, M]) MarshalJSON() ([]byte, error) {
	if m.v == nil {
		return []byte("null"), nil
	}
	return protojson.Marshal(m.v)
}

func (m *message[T, M]) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	m.v = new(T)
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m.v)
}

// page writes one record. What was removed is not written again.
type page struct {
	mu   sync.Mutex // held while it is written
	gone bool
}

// book is a folder of records, a file each.
type book[R any] struct{ dir string }

func (b book[R]) path(id string) string { return filepath.Join(b.dir, id+".json") }

// save writes a record as it is when its turn comes: saves of one record follow each other.
func (b book[R]) save(p *page, id string, now func() R) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	r := now()
	return b.write(id, &r)
}

// write replaces a record. A crash leaves the old one or the new one.
func (b book[R]) write(id string, r *R) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("runtime: record of %s: %w", id, err)
	}
	tmp := b.path(id) + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("runtime: record of %s: %w", id, err)
	}
	if err := os.Rename(tmp, b.path(id)); err != nil {
		return fmt.Errorf("runtime: record of %s: %w", id, err)
	}
	return nil
}

// drop forgets the record of a page for good.
func (b book[R]) drop(p *page, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := b.remove(id); err != nil {
		return err
	}
	p.gone = true
	return nil
}

// remove forgets a record.
func (b book[R]) remove(id string) error {
	if err := os.Remove(b.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("runtime: record of %s: %w", id, err)
	}
	return nil
}

// read loads all records. What cannot be read (the machine lost its power while it was written) is set aside and named.
func (b book[R]) read() (all map[string]*R, damaged []string, err error) {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("runtime: %w", err)
	}
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("runtime: %w", err)
	}
	all = map[string]*R{}
	for _, e := range entries {
		name := filepath.Join(b.dir, e.Name())
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			if strings.HasSuffix(e.Name(), ".tmp") {
				_ = os.Remove(name)
			}
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, nil, fmt.Errorf("runtime: %w", err)
		}
		r := new(R)
		if err := json.Unmarshal(data, r); err != nil {
			damaged = append(damaged, id)
			if err := os.Rename(name, name+".damaged"); err != nil {
				return nil, nil, fmt.Errorf("runtime: %w", err)
			}
			continue
		}
		all[id] = r
	}
	return all, damaged, nil
}
