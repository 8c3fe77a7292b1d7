//go:build linux

package nodetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"

	"github.com/keelson-io/keelson/orchestrator/cluster"
)

// settle is how long what is being torn down may take to be gone.
const settle = 5 * time.Second

// node is the directory of the machine's node.
func (m *Machine) node() string { return filepath.Join(m.Data(), "node") }

// cleared waits until the node has removed its containers, for a while: a pod is gone before they are. Not all nodes run.
func (m *Machine) cleared() {
	n := cluster.Node{Dir: m.node()}
	for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if bundles, _ := filepath.Glob(filepath.Join(n.StateDir(), "bundles", "*")); len(bundles) == 0 { // the pattern is good
			break
		}
	}
	for end := time.Now().Add(limit); m.busy != nil && m.busy() && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
}

// left tells what is left behind once nothing runs on the machine, and removes what is the machine's own.
func (m *Machine) left() error {
	var found []string
	for end := time.Now().Add(settle); ; time.Sleep(100 * time.Millisecond) {
		found = m.Left()
		if len(found) == 0 || time.Now().After(end) {
			break
		}
	}
	var errs []error
	for _, what := range found {
		errs = append(errs, fmt.Errorf("nodetest: left behind by %s: %s", m.Name, what))
	}
	if len(found) == 0 {
		errs = append(errs, m.removeCgroups(), os.RemoveAll(m.state()), m.unmountDisk())
	}
	return errors.Join(errs...)
}

// Holds is what the machine holds of a pod: mounts and cgroups with its UID in their names, and its directory.
func (m *Machine) Holds(uid string) (found []string) {
	state := m.state()
	for _, what := range append(m.mounts(state), m.cgroups()...) {
		if strings.Contains(what, uid) {
			found = append(found, what)
		}
	}
	if dir := filepath.Join(m.node(), "pods", uid); exists(dir) {
		found = append(found, "directory "+dir)
	}
	return found
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// state is where the runtime of the machine keeps its state.
func (m *Machine) state() string {
	n := cluster.Node{Dir: m.node()}
	return n.StateDir()
}

// processes are those that have a directory of the machine among their arguments, or are in one of its cgroups.
func (m *Machine) processes(state string) (found []string) {
	for pid, args := range m.running(state) {
		found = append(found, fmt.Sprintf("process %d: %s", pid, args))
	}
	return found
}

// running are these processes, with their arguments.
func (m *Machine) running(state string) map[int]string {
	found := map[int]string{}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // it may end
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && (bytes.Contains(args, []byte(m.Dir+"/")) || bytes.Contains(args, []byte(state)) || bytes.Contains(groups, []byte(m.Cgroup))) {
			found[pid] = string(bytes.ReplaceAll(args, []byte{0}, []byte{' '}))
		}
	}
	return found
}

func (m *Machine) mounts(state string) (found []string) {
	all, err := m.mountPoints(state)
	if err != nil {
		return []string{err.Error()}
	}
	for _, dir := range all {
		found = append(found, "mount "+dir)
	}
	return found
}

// mountPoints are those of the machine, without its disk.
func (m *Machine) mountPoints(state string) (found []string, err error) {
	all, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Mountpoint == m.disk || !strings.HasPrefix(i.Mountpoint, m.Dir+"/") && !strings.HasPrefix(i.Mountpoint, state), false
	})
	for _, i := range all {
		found = append(found, i.Mountpoint)
	}
	return found, err
}

// cgroups are those of pods and shims: what they are in stays.
func (m *Machine) cgroups() (found []string) {
	for _, dir := range m.cgroupDirs() {
		name, in := filepath.Base(dir), filepath.Base(filepath.Dir(dir))
		if in == "shims" || in == "keelson" && name != "shims" || strings.Contains(name, "pod") && name != "kubepods" {
			found = append(found, "cgroup "+dir)
		}
	}
	return found
}

// cgroupDirs are all directories of the machine's cgroup, the innermost first.
func (m *Machine) cgroupDirs() (dirs []string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + m.Cgroup)
	for _, root := range append(roots, "/sys/fs/cgroup"+m.Cgroup) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	slices.Reverse(dirs)
	return dirs
}

func (m *Machine) removeCgroups() error {
	var errs []error
	for _, dir := range m.cgroupDirs() {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

// links are interfaces of pods.
func (m *Machine) links() (found []string) {
	err := m.Do(func() error {
		all, err := netlink.LinkList()
		for _, l := range all {
			if l.Type() == "veth" && l.Attrs().Name != "eth0" {
				found = append(found, "link "+l.Attrs().Name)
			}
		}
		return err
	})
	if err != nil {
		found = append(found, err.Error())
	}
	return found
}

// sandboxes are files of the runtime's state.
func sandboxes(state string) (found []string) {
	_ = filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Type()&fs.ModeSocket == 0 {
			found = append(found, "file "+path)
		}
		return nil
	})
	return found
}
