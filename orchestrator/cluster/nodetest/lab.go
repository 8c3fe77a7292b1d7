//go:build linux

package nodetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/testkit"
)

// Outside is the wire's on the network of the machines.
const Outside = "192.0.2.1"

// Lab is a network of machines.
type Lab struct {
	// Dir holds everything that the machines keep. Its last element names the lab.
	Dir string
	// Wire is where the machines are joined.
	Wire *testkit.NetNS

	machines []*Machine
}

// newLab makes a lab without machines.
func newLab() (*Lab, error) {
	dir, err := os.MkdirTemp("", "nodetest-")
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir}
	if l.Wire, err = testkit.OpenNetNS(dir); err != nil {
		return nil, err
	}
	err = l.Wire.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "wire"
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		return configure(bridge, Outside)
	})
	return l, err
}

// name names what belongs to the lab.
func (l *Lab) name() string { return filepath.Base(l.Dir) }

// close gives the namespaces up.
func (l *Lab) close() error {
	errs := []error{l.Wire.Close()}
	for _, m := range l.machines {
		errs = append(errs, m.NetNS.Close())
	}
	return errors.Join(errs...)
}

// Machine is where a program runs.
type Machine struct {
	*testkit.NetNS
	// Name is the node's, Address its address.
	Name, Address string
	// Dir holds the machine's files: data, logs, manifests.
	Dir string
	// Cgroup is that under which its pods are.
	Cgroup string

	link string         // its end in the wire
	busy func() bool    // whether a runtime that is not ours has pods; nil: there is none
	ends []func() error // of what it has beside keelson, in the order in which it was started
	disk string         // where a file system of its own is mounted, "" if it has none
}

// machine adds a machine.
func (l *Lab) machine(name string) (*Machine, error) {
	n := len(l.machines)
	m := &Machine{
		Name: name, Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}).String(), Dir: filepath.Join(l.Dir, name),
		Cgroup: fmt.Sprintf("/%s-%s", l.name(), name), link: "m-" + name,
	}
	for _, dir := range []string{m.Dir, m.Manifests(), m.Logs()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	var err error
	if m.NetNS, err = testkit.OpenNetNS(l.Dir); err != nil {
		return nil, err
	}
	l.machines = append(l.machines, m)
	return m, l.attach(m)
}

// attach joins a machine to the wire.
func (l *Lab) attach(m *Machine) error {
	if err := l.plug(m); err != nil {
		return err
	}
	return m.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := configure(link, m.Address); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(Outside)})
	})
}

// plug makes the pair of interfaces between a machine and the wire.
func (l *Lab) plug(m *Machine) error {
	fd, err := unix.Open(m.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return l.Wire.Do(func() error {
		bridge, err := netlink.LinkByName("wire")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = m.link, bridge.Attrs().Index
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(fd)}
		if err := netlink.LinkAdd(pair); err != nil {
			return err
		}
		return netlink.LinkSetUp(pair)
	})
}

// SetWire joins a machine to the wire, or cuts it off.
func (l *Lab) SetWire(m *Machine, joined bool) error {
	return l.Wire.Do(func() error {
		link, err := netlink.LinkByName(m.link)
		switch {
		case err != nil:
			return err
		case joined:
			return netlink.LinkSetUp(link)
		default:
			return netlink.LinkSetDown(link)
		}
	})
}

// configure gives a link an address and sets it up.
func configure(link netlink.Link, address string) error {
	a, err := netlink.ParseAddr(address + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Data, Logs and Manifests are directories of a machine: of the program, of pods' logs, of static pods.
func (m *Machine) Data() string { return filepath.Join(m.Dir, "data") }

// Logs is the directory of pods' logs.
func (m *Machine) Logs() string { return filepath.Join(m.Dir, "logs") }

// Manifests is the directory of static pods.
func (m *Machine) Manifests() string { return filepath.Join(m.Dir, "manifests") }

// Dial connects from inside of a network namespace.
func Dial(ctx context.Context, ns *testkit.NetNS, network, address string) (conn net.Conn, err error) {
	err = ns.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
