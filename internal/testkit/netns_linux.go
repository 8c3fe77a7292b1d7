package testkit

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Root skips a test that needs root on a machine where it has not got it.
func Root(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// NetNS is a network namespace of a test, with its loopback up.
type NetNS struct {
	path string // under which it is mounted
}

// NewNetNS makes a network namespace that ends with the test. It skips the test where there is no right to make one.
func NewNetNS(t testing.TB) *NetNS {
	t.Helper()
	Root(t)
	n, err := OpenNetNS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// OpenNetNS makes a network namespace, which needs root, and mounts it on a new file of a directory.
func OpenNetNS(dir string) (*NetNS, error) {
	file, err := os.CreateTemp(dir, "netns-")
	if err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	n := &NetNS{path: file.Name()}
	return n, n.make()
}

// Close gives the namespace up. It is there for as long as somebody is in it.
func (n *NetNS) Close() error { return unix.Unmount(n.path, unix.MNT_DETACH) }

// Path is a file that the namespace is mounted on.
func (n *NetNS) Path() string { return n.path }

// make unshares on a thread that is thrown away, and pins what it made.
func (n *NetNS) make() error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("testkit: a network namespace: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), n.path, "", unix.MS_BIND, "")
	})
}

// Do runs f inside the namespace. What f starts in other goroutines runs outside.
func (n *NetNS) Do(f func() error) error {
	return onThread(func() error {
		fd, err := unix.Open(n.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		done <- f()
	}()
	return <-done
}
