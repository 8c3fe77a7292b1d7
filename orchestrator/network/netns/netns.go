// Package netns opens sockets in network namespaces of other processes: a node that is simulated, or tested, has one of its
// own.
//
// # Concurrency
//
// An NS may be used by several goroutines.
package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NS is a network namespace. A nil NS is the one that the process is in.
type NS struct {
	file *os.File
}

// Open opens the namespace that is mounted at a path. An empty path is the namespace that the process is in.
func Open(path string) (*NS, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	return &NS{file: f}, nil
}

// Close forgets the namespace.
func (n *NS) Close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// Fd is the namespace's descriptor, or -1 for the one that the process is in.
func (n *NS) Fd() int {
	if n == nil {
		return -1
	}
	return int(n.file.Fd())
}

// Do runs f in the namespace. What f starts in other goroutines runs outside, but a socket that f opens stays inside.
func (n *NS) Do(f func() error) error {
	if n == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- n.onThread(f)
	}()
	return <-done
}

// onThread runs f with the thread in the namespace, and lets the thread go if it is back afterwards. If it is not, the
// thread ends with its goroutine.
func (n *NS) onThread(f func() error) error {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("netns: %w", err)
	}
	defer func() { _ = unix.Close(home) }()
	if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("netns: entering %s: %w", n.file.Name(), err)
	}
	defer func() {
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}
