//go:build linux

package runtime

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ownSlice is the name of the parent of cgroups as that of a slice of systemd, without its end.
func (m *machine) ownSlice() string {
	return strings.Trim(strings.ReplaceAll(m.cfg.CgroupParent, "/", "-"), "-")
}

// ownCgroup is the parent of the containers of a sandbox whose config names none.
func (m *machine) ownCgroup(sandbox string) string {
	if m.cfg.CgroupDriver == Systemd {
		return m.ownSlice() + "-" + sandbox + ".slice"
	}
	return path.Join(m.cfg.CgroupParent, sandbox)
}

// ownCgroups is where these are, from the root of a hierarchy.
func (m *machine) ownCgroups() string {
	if m.cfg.CgroupDriver == Systemd {
		return slicePath(m.ownSlice() + ".slice")
	}
	return m.cfg.CgroupParent
}

// shimCgroup is where a sandbox's shim lives, outside of the limits of its pod.
func (m *machine) shimCgroup(sandbox string) string {
	return path.Join("/", m.cfg.CgroupParent, "shims", sandbox)
}

// containerCgroup is a container's cgroup as OCI's cgroupsPath.
func (m *machine) containerCgroup(parent, container string) string {
	if m.cfg.CgroupDriver == Systemd {
		return path.Base(parent) + ":keelson:" + container
	}
	return path.Join("/", parent, container)
}

// hierarchies are the roots of the machine's cgroups.
func (m *machine) hierarchies() ([]string, error) {
	if m.host.CgroupV2 {
		return []string{"/sys/fs/cgroup"}, nil
	}
	return filepath.Glob("/sys/fs/cgroup/*")
}

// removeCgroup removes a cgroup that holds nothing any more, with those below it, from every hierarchy.
func (m *machine) removeCgroup(parent string) error {
	roots, err := m.hierarchies()
	if err != nil {
		return err
	}
	if m.cfg.CgroupDriver == Systemd {
		parent = slicePath(parent)
	}
	for _, root := range roots {
		if err := removeTree(filepath.Join(root, parent)); err != nil {
			return fmt.Errorf("runtime: cgroup %s: %w", parent, err)
		}
	}
	return nil
}

// sweepCgroups removes those of sandboxes that are not known.
func (m *machine) sweepCgroups(known func(id string) bool) error {
	roots, err := m.hierarchies()
	if err != nil {
		return err
	}
	var failed error
	for _, root := range roots {
		entries, err := os.ReadDir(filepath.Join(root, m.ownCgroups()))
		if err != nil {
			continue // there are none
		}
		for _, e := range entries {
			if id := idIn(e.Name()); id != "" && !known(id) {
				failed = errors.Join(failed, m.removeCgroup(m.ownCgroup(id)))
			}
		}
	}
	return failed
}

// idIn finds the ID at the end of the name of a cgroup, "" if there is none.
func idIn(name string) string {
	id := strings.TrimSuffix(name, ".slice")
	id = id[strings.LastIndexByte(id, '-')+1:]
	if b, err := hex.DecodeString(id); err != nil || len(b) != idBytes {
		return ""
	}
	return id
}

// slicePath is where systemd keeps a slice: "a-b.slice" is a.slice/a-b.slice.
func slicePath(slice string) (path string) {
	name := strings.TrimSuffix(filepath.Base(slice), ".slice")
	for i := range name {
		if name[i] == '-' {
			path = filepath.Join(path, name[:i]+".slice")
		}
	}
	return filepath.Join(path, name+".slice")
}

// removeTree removes a cgroup from below.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
