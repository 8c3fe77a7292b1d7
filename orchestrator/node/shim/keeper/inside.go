//go:build linux && cgo

package keeper

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// inside runs f on a thread that has joined the network, IPC and UTS namespaces of the sandbox, and ends with it.
func (s *sandbox) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			for _, ns := range kinds {
				path := s.state.Namespaces[ns.kind]
				if path == "" || ns.flag&(unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS) == 0 {
					continue
				}
				file, err := os.Open(path)
				if err != nil {
					return err
				}
				err = unix.Setns(int(file.Fd()), int(ns.flag))
				_ = file.Close()
				if err != nil {
					return fmt.Errorf("join %s: %w", path, err)
				}
			}
			return f()
		}()
	}()
	return <-done
}

// becomeRootOf makes the thread the root of a user namespace, seen from outside.
func becomeRootOf(ns *wire.UserNS) error {
	uid, gid := rootOf(ns.UIDs), rootOf(ns.GIDs)
	// Not unix.Setresuid, which is of all threads.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keepID, gid, keepID); errno != 0 {
		return fmt.Errorf("be group %d: %w", gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keepID, uid, keepID); errno != 0 {
		return fmt.Errorf("be user %d: %w", uid, errno)
	}
	return nil
}

const keepID = ^uintptr(0)

func rootOf(ids []specs.LinuxIDMapping) uintptr {
	for _, m := range ids {
		if m.ContainerID == 0 {
			return uintptr(m.HostID)
		}
	}
	return 0
}

// linkUp sets a link of the thread's network namespace up.
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(req))); errno != 0 {
		return fmt.Errorf("set link %s up: %w", name, errno)
	}
	return nil
}

// awaitProcess waits for a child and reaps it.
func awaitProcess(p *os.Process) error {
	_ = ledger.Wait(context.Background(), p.Pid)
	_, err := p.Wait()
	return err
}

// capable tells whether the shim has a capability, by its number.
func capable(number uint) bool {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	var mask uint64
	for line := range bytes.Lines(data) {
		if n, _ := fmt.Sscanf(string(line), "CapEff: %x", &mask); n == 1 {
			break
		}
	}
	return mask&(1<<number) != 0
}
