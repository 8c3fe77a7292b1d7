//go:build linux

// Package ledger is the record that a shim keeps on disk of everything it made on the machine, so that it can all be removed
// when the shim was killed.
//
// An entry is written before the thing that it names is made, and goes after it was removed.
//
// # Concurrency
//
// A Ledger is plain data. Write replaces the file at once, so Read sees the old or the new one.
package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"

	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// Names in the folder of a shim.
const (
	fileName   = "shim.json"
	SocketName = "shim.sock"
	LogName    = "shim.log"
	StateName  = "containers" // of libcontainer
)

// Process names a process for good: a pid alone may be another's later.
type Process struct {
	Pid   int
	Start uint64 // of /proc/PID/stat, in clock ticks after boot
}

// Container is one of the shim's.
type Container struct {
	State  wire.State
	Init   Process         `json:",omitzero"`
	Cgroup *cgroups.Cgroup // as libcontainer has it
}

// Ledger is the content of the file.
type Ledger struct {
	Shim       Process
	Cgroup     string   `json:",omitempty"` // of the shim, from the root of each hierarchy
	Pause      Process  `json:",omitzero"`
	Mounts     []string `json:",omitempty"` // of namespaces
	Containers []Container
}

// Read reads the ledger in a folder; it is an os.ErrNotExist if there is none.
func Read(dir string) (*Ledger, error) {
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	var l Ledger
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("ledger: %s: %w", dir, err)
	}
	return &l, nil
}

// Write replaces the ledger in a folder.
func (l *Ledger) Write(dir string) error {
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	path := filepath.Join(dir, fileName)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// remove removes what a shim keeps in its folder, the ledger last, and the folder if nothing else is in it.
func remove(dir string) error {
	var errs []error
	for _, name := range []string{SocketName, StateName, LogName, fileName + ".new", fileName} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	_ = os.Remove(dir)
	return errors.Join(errs...)
}
