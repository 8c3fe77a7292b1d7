//go:build linux && cgo

package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
	"github.com/keelson-io/keelson/orchestrator/node/shim/pause"
	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// sandbox holds the namespaces of a pod. All but the network's are held open by descriptors, and reached through /proc: they
// go with the shim, and leave nothing on the machine.
type sandbox struct {
	state wire.SandboxState
	held  map[specs.LinuxNamespaceType]*os.File
	pause *os.Process // or nil
}

// kinds of namespaces that a sandbox may have, by their names in /proc.
var kinds = []struct {
	kind specs.LinuxNamespaceType
	file string
	flag uintptr
}{
	{specs.UserNamespace, "user", unix.CLONE_NEWUSER},
	{specs.NetworkNamespace, "net", unix.CLONE_NEWNET},
	{specs.IPCNamespace, "ipc", unix.CLONE_NEWIPC},
	{specs.UTSNamespace, "uts", unix.CLONE_NEWUTS},
	{specs.PIDNamespace, "pid", unix.CLONE_NEWPID},
}

func (k *Keeper) makeSandbox(spec *wire.SandboxSpec) (_ *wire.SandboxState, err error) {
	k.mu.Lock()
	there := k.sandbox
	if there == nil {
		k.sandbox = &sandbox{} // being made
	}
	k.mu.Unlock()
	if there != nil {
		return nil, errorf(wire.Exists, "the sandbox exists already")
	}
	s := &sandbox{held: map[specs.LinuxNamespaceType]*os.File{}, state: wire.SandboxState{Namespaces: map[specs.LinuxNamespaceType]string{}}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("sandbox: %w", err)
			k.dropSandbox(s)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.sandbox = s; err != nil {
			k.sandbox = nil
		}
	}()
	flags, err := flagsOf(spec)
	if err != nil {
		return nil, err
	}
	if flags != 0 {
		if err := k.hold(s, spec, flags); err != nil {
			return nil, err
		}
	}
	if err := k.pinNet(s, spec, flags); err != nil {
		return nil, err
	}
	if err := s.configure(spec, flags); err != nil {
		return nil, err
	}
	return &s.state, nil
}

// flagsOf tells which namespaces are to be made.
func flagsOf(spec *wire.SandboxSpec) (flags uintptr, err error) {
	if spec.UserNS != nil {
		flags |= unix.CLONE_NEWUSER
	}
	if spec.IPC {
		flags |= unix.CLONE_NEWIPC
	}
	if spec.UTS {
		flags |= unix.CLONE_NEWUTS
	} else if spec.Hostname != "" {
		return 0, errors.New("a hostname needs a UTS namespace")
	}
	if spec.PID {
		flags |= unix.CLONE_NEWPID
	}
	if spec.NetNS != "" && !isNamespace(spec.NetNS) {
		flags |= unix.CLONE_NEWNET
	}
	return flags, nil
}

func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// hold starts a process in new namespaces and opens them. The process stays if it is to be the pid 1 of one.
func (k *Keeper) hold(s *sandbox, spec *wire.SandboxSpec, flags uintptr) error {
	exe, err := exeseal.CloneSelfExe(k.dir) // a container that sees it must not reach the shim's program
	if err != nil {
		return err
	}
	defer func() { _ = exe.Close() }()
	attr := &os.ProcAttr{
		Dir: "/", Env: []string{pause.Env + "=1"}, Files: []*os.File{exe, nil, nil},
		Sys: &syscall.SysProcAttr{Cloneflags: flags, Setsid: true},
	}
	if spec.UserNS != nil {
		attr.Sys.UidMappings, attr.Sys.GidMappings = mappings(spec.UserNS.UIDs), mappings(spec.UserNS.GIDs)
		attr.Sys.GidMappingsEnableSetgroups = true
	}
	pid, err := k.own(func() (int, error) {
		if s.pause, err = os.StartProcess("/proc/self/fd/0", []string{"pause"}, attr); err != nil {
			return 0, err
		}
		return s.pause.Pid, nil
	})
	if err != nil {
		return fmt.Errorf("the process that holds its namespaces: %w", err)
	}
	for _, ns := range kinds {
		if flags&ns.flag == 0 {
			continue
		}
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.file))
		if err != nil {
			return err
		}
		s.held[ns.kind] = file
		s.state.Namespaces[ns.kind] = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd())
	}
	if !spec.PID {
		k.endPause(s)
		return nil
	}
	s.state.Pause = pid
	process, err := ledger.Find(pid)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.ledger.Pause = process
	k.mu.Unlock()
	go func(p *os.Process) { // it may be killed by somebody else
		_ = awaitProcess(p)
		k.disown(pid)
	}(s.pause)
	return k.save()
}

func mappings(ids []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	maps := make([]syscall.SysProcIDMap, len(ids))
	for i, m := range ids {
		maps[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	return maps
}

// pinNet mounts the network namespace where the caller wants it, unless it is there already.
func (k *Keeper) pinNet(s *sandbox, spec *wire.SandboxSpec, flags uintptr) error {
	if spec.NetNS == "" {
		return nil
	}
	s.state.Namespaces[specs.NetworkNamespace] = spec.NetNS
	if flags&unix.CLONE_NEWNET == 0 {
		return nil
	}
	k.mu.Lock()
	k.ledger.Mounts = append(k.ledger.Mounts, spec.NetNS)
	k.mu.Unlock()
	if err := k.save(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(spec.NetNS), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(spec.NetNS, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	_ = file.Close()
	held := fmt.Sprintf("/proc/self/fd/%d", s.held[specs.NetworkNamespace].Fd())
	if err := unix.Mount(held, spec.NetNS, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the network namespace on %s: %w", spec.NetNS, err)
	}
	return nil
}

// configure sets what belongs to the namespaces: the loopback link, the hostname and sysctls.
func (s *sandbox) configure(spec *wire.SandboxSpec, flags uintptr) error {
	if flags&unix.CLONE_NEWNET == 0 && spec.Hostname == "" && len(spec.Sysctls) == 0 {
		return nil
	}
	return s.inside(func() error {
		if flags&unix.CLONE_NEWNET != 0 {
			if err := linkUp("lo"); err != nil {
				return err
			}
		}
		if spec.Hostname != "" {
			if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
				return fmt.Errorf("hostname %q: %w", spec.Hostname, err)
			}
		}
		denied, err := sysctl(spec.Sysctls)
		if len(denied) == 0 || spec.UserNS == nil {
			return err
		}
		if err := becomeRootOf(spec.UserNS); err != nil { // those of IPC are for its root alone
			return err
		}
		_, err = sysctl(denied)
		return err
	})
}

// sysctl sets what it can, and returns what it was not permitted to.
func sysctl(values map[string]string) (denied map[string]string, err error) {
	denied = map[string]string{}
	for name, value := range values {
		path := name
		if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' { // then a slash in it is a dot of a link's name
			path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
		}
		if !filepath.IsLocal(path) {
			return nil, fmt.Errorf("sysctl %q is none", name)
		}
		werr := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
		if werr == nil {
			continue
		}
		if errors.Is(werr, os.ErrPermission) {
			denied[name] = value
			err = fmt.Errorf("sysctl %s: %w", name, werr)
			continue
		}
		return nil, fmt.Errorf("sysctl %s: %w", name, werr)
	}
	return denied, err
}

// dropSandbox ends what holds the namespaces. A failure is left to the ledger.
func (k *Keeper) dropSandbox(s *sandbox) {
	if s.pause != nil {
		k.endPause(s)
	}
	for _, file := range s.held {
		_ = file.Close()
	}
	k.mu.Lock()
	mounts := k.ledger.Mounts
	k.ledger.Mounts, k.ledger.Pause = nil, ledger.Process{}
	k.mu.Unlock()
	for _, path := range mounts {
		if ledger.Unpin(path) != nil {
			k.mu.Lock()
			k.ledger.Mounts = append(k.ledger.Mounts, path)
			k.mu.Unlock()
		}
	}
	_ = k.save()
}

func (k *Keeper) endPause(s *sandbox) {
	_ = s.pause.Kill()
	_ = awaitProcess(s.pause)
	k.disown(s.pause.Pid)
	s.pause = nil
}
