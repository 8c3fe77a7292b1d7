package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// nodeState is what a node that is taken out of service has to know of what it was: it is in the node's directory.
type nodeState struct {
	Name            string `json:"name"`
	RuntimeEndpoint string `json:"runtimeEndpoint,omitempty"`
	ServiceRange    string `json:"serviceRange"`
	CgroupDriver    string `json:"cgroupDriver,omitempty"`
	CgroupRoot      string `json:"cgroupRoot,omitempty"`
	LogDir          string `json:"logDir,omitempty"`
	Backend         string `json:"podNetwork,omitempty"`
	CNI             CNI    `json:"cni,omitzero"`
}

const nodeStateFile = "node.json"

// saveState writes down how the node is run.
func (n *Node) saveState() error {
	b, err := json.Marshal(nodeState{n.Name, n.RuntimeEndpoint, n.ServiceRange, n.CgroupDriver, n.CgroupRoot, n.LogDir, n.Backend, n.CNI})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	file := filepath.Join(n.Dir, nodeStateFile)
	if err := os.WriteFile(file+".tmp", b, 0o600); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// loadState reads how the node was run, and says whether anything is known of it.
func (n *Node) loadState() (known bool, err error) {
	b, err := os.ReadFile(filepath.Join(n.Dir, nodeStateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cluster: %w", err)
	}
	var s nodeState
	if err := json.Unmarshal(b, &s); err != nil {
		return false, fmt.Errorf("cluster: %s: %w", filepath.Join(n.Dir, nodeStateFile), err)
	}
	n.Name, n.RuntimeEndpoint, n.ServiceRange, n.CgroupDriver, n.CgroupRoot, n.LogDir = s.Name, s.RuntimeEndpoint, s.ServiceRange, s.CgroupDriver, s.CgroupRoot, s.LogDir
	n.Backend, n.CNI = s.Backend, s.CNI
	return true, nil
}

// lockNode makes sure that one process works with the node's directory. The lock is given back by closing it, or by the end of the
// process.
func lockNode(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster: the node in %s is run by another process: %w", dir, err), f.Close())
	}
	return f, nil
}
