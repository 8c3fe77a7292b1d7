//go:build linux

package nodetest

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// Keelson runs keelson on a machine to its end, and returns what it says on its standard output.
func (c *Cluster) Keelson(m *Machine, args ...string) (string, error) {
	cmd := m.Command(c.keelson, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := m.Do(cmd.Run); err != nil {
		return out.String(), fmt.Errorf("nodetest: keelson %s on %s: %w: %s", strings.Join(args, " "), m.Name, err, &errs)
	}
	return out.String(), nil
}

// start starts a command on the machine.
func (m *Machine) start(cmd *exec.Cmd) error { return m.Do(cmd.Start) }

// Node is the directory of the machine's node.
func (m *Machine) Node() string { return m.node() }

// Left tells what nodes left behind on the machine, without waiting; nothing may run there.
func (m *Machine) Left() []string {
	state := m.state()
	return slices.Concat(m.processes(state), m.mounts(state), m.cgroups(), m.links(), sandboxes(state))
}

// Cgroups are all directories of the machine's cgroup.
func (m *Machine) Cgroups() []string { return m.cgroupDirs() }
