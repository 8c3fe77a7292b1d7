//go:build linux

package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// patience bounds how long what was killed may take to be gone.
const patience = 10 * time.Second

// Clean kills and removes what the shim of a folder left on the machine, and the shim itself if it still runs. It may be
// called again after an error, and where there is nothing.
func Clean(dir string) error {
	l, err := Read(dir)
	if errors.Is(err, os.ErrNotExist) {
		return remove(dir)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	errs := []error{l.Shim.Kill(ctx)}
	for _, c := range l.Containers {
		errs = append(errs, c.clean(ctx))
	}
	// Not waited for: a pid 1 ends when its orphans have been reaped, by whoever that falls to. What it held it lets go before.
	if file, err := l.Pause.kill(); file != nil {
		_ = file.Close()
	} else {
		errs = append(errs, err)
	}
	for _, path := range l.Mounts {
		errs = append(errs, Unpin(path))
	}
	if l.Cgroup != "" {
		errs = append(errs, removeCgroup(ctx, l.Cgroup))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ledger: clean %s: %w", dir, err)
	}
	return remove(dir)
}

func (c Container) clean(ctx context.Context) error {
	if c.Cgroup == nil {
		return c.Init.Kill(ctx)
	}
	m, err := manager.New(c.Cgroup)
	if err != nil {
		return err
	}
	return errors.Join(c.Init.Kill(ctx), KillAll(ctx, m), destroy(ctx, m))
}

// Unpin unmounts a namespace from a file and removes the file.
func Unpin(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("ledger: unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// KillAll kills every process of a cgroup and of those below it, and waits until none is left.
func KillAll(ctx context.Context, m cgroups.Manager) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		pids, err := kill(m)
		if err != nil || len(pids) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ledger: %d processes do not end", len(pids))
		case <-time.After(wait):
		}
	}
}

// kill kills what is in the cgroup now, and returns it. With version 1 the processes are frozen meanwhile, so that none forks
// away.
func kill(m cgroups.Manager) ([]int, error) {
	if !m.Exists() {
		return nil, nil
	}
	if cgroups.IsCgroup2UnifiedMode() {
		err := cgroups.WriteFile(m.Path(""), "cgroup.kill", "1") // Linux 5.14
		if err == nil {
			return allPids(m)
		}
	}
	pids, err := allPids(m)
	if err != nil || len(pids) == 0 {
		return nil, err
	}
	if m.Freeze(cgroups.Frozen) == nil {
		pids, err = allPids(m)
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	_ = m.Freeze(cgroups.Thawed)
	return pids, err
}

func allPids(m cgroups.Manager) ([]int, error) {
	pids, err := m.GetAllPids()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return pids, err
}

func destroy(ctx context.Context, m cgroups.Manager) error {
	for {
		err := m.Destroy()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Own is the cgroup of a shim as a manager takes it.
func Own(path string) (cgroups.Manager, error) {
	return manager.New(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{}})
}

// removeCgroup removes a shim's cgroup with what is in it: a shim that was killed as it forked has children that no ledger names.
func removeCgroup(ctx context.Context, path string) error {
	m, err := Own(path)
	if err != nil {
		return err
	}
	return errors.Join(KillAll(ctx, m), destroy(ctx, m))
}

// SocketPath makes the path of the socket in a folder fit into a socket's address, which holds 107 bytes: a long one is
// reached through the folder's descriptor, which done closes.
func SocketPath(dir string) (path string, done func(), err error) {
	path = filepath.Join(dir, SocketName)
	if len(path) < 100 {
		return path, func() {}, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("ledger: %s: %w", dir, err)
	}
	path = strings.Join([]string{"/proc/self/fd", fmt.Sprint(fd), SocketName}, "/")
	return path, func() { _ = unix.Close(fd) }, nil
}
