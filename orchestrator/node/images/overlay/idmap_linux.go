package overlay

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// mapped clones the lower layers of a spec with mappings, each with its owners mapped. Without mappings it returns nil.
func mapped(s *Spec) (fds []int, release func(), err error) {
	release = func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
	if len(s.UIDs) == 0 && len(s.GIDs) == 0 {
		return nil, release, nil
	}
	ns, err := userNamespace(s.UIDs, s.GIDs)
	if err != nil {
		return nil, nil, fmt.Errorf("overlay: a user namespace for the mappings: %w", err)
	}
	defer func() { _ = ns.Close() }()
	for _, dir := range s.Lower {
		fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err == nil {
			fds = append(fds, fd)
			err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
		}
		if err != nil {
			release()
			if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
				return nil, nil, fmt.Errorf("%w (%s: %w)", ErrNoIDMap, dir, err)
			}
			return nil, nil, fmt.Errorf("overlay: map the owners of %s: %w", dir, err)
		}
	}
	return fds, release, nil
}

// attach gives id-mapped layers a path, for kernels that take no descriptors. An overlay holds clones of its layers, so the
// paths may go when it is mounted.
func attach(s Spec, fds []int) (paths []string, release func(), err error) {
	base, err := os.MkdirTemp(filepath.Dir(s.Work), "lower-")
	if err != nil {
		return nil, nil, err
	}
	release = func() {
		for _, p := range paths {
			_ = unix.Unmount(p, unix.MNT_DETACH)
			_ = os.Remove(p)
			_ = os.Remove(filepath.Dir(p))
		}
		_ = os.Remove(base)
	}
	for i, fd := range fds {
		dir := filepath.Join(base, strconv.Itoa(i), "fs")
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		if err != nil {
			release()
			return nil, nil, err
		}
		paths = append(paths, dir)
	}
	return paths, release, nil
}

// userNamespace makes a user namespace with the mappings. It is born with a process that is stopped before its first
// instruction, and ends there.
func userNamespace(uids, gids []IDMapping) (*os.File, error) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: toSys(uids), GidMappings: toSys(gids),
		Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return ns, err
}

func toSys(maps []IDMapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(maps))
	for i, m := range maps {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	return out
}
