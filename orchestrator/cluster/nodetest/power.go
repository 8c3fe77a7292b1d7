//go:build linux

package nodetest

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/testkit"
)

// mountDisk gives the node's directory a file system of its own, of a size in bytes.
func (m *Machine) mountDisk(size int64) error {
	if size == 0 {
		return nil
	}
	if err := os.MkdirAll(m.node(), 0o700); err != nil {
		return err
	}
	m.disk = m.node()
	return unix.Mount("disk", m.disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", size))
}

func (m *Machine) unmountDisk() error {
	if m.disk == "" {
		return nil
	}
	return unix.Unmount(m.disk, 0)
}

// PowerOff takes the power from the machine of a node: its processes end all at once, and what is not on its disk is gone: mounts,
// cgroups, network, the runtime's state.
func (c *Cluster) PowerOff(name string) error {
	m, state := c.Machine(name), c.Machine(name).state()
	if err := c.SetWire(m, false); err != nil {
		return err
	}
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		running := m.running(state)
		if len(running) == 0 {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("nodetest: processes of %s that do not end: %v", name, running)
		}
		for pid := range running {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone
		}
	}
	<-c.nodes[name].done
	mounts, err := m.mountPoints(state)
	slices.SortFunc(mounts, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	errs := []error{err}
	for _, dir := range mounts {
		errs = append(errs, unix.Unmount(dir, unix.MNT_DETACH))
	}
	errs = append(errs, m.removeCgroups(), os.RemoveAll(state), c.unplug(m), m.Close())
	m.NetNS, err = testkit.OpenNetNS(c.Dir)
	return errors.Join(append(errs, err)...)
}

// unplug removes the pair of interfaces between a machine and the wire.
func (l *Lab) unplug(m *Machine) error {
	return l.Wire.Do(func() error {
		link, err := netlink.LinkByName(m.link)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}

// PowerOn starts the machine of a node again, and the node. Its mounts are seen by its processes only.
func (c *Cluster) PowerOn(name string) error {
	m, p := c.Machine(name), c.nodes[name]
	if err := c.attach(m); err != nil {
		return err
	}
	p.ns, p.boot = m.NetNS, filepath.Join(m.Dir, "boot-"+rand.Text())
	if err := os.WriteFile(p.boot, []byte(uuid.NewString()+"\n"), 0o444); err != nil {
		return err
	}
	return p.Start()
}
