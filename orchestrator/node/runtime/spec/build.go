//go:build linux

package spec

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container is what the OCI configuration of a container is made from.
type Container struct {
	ID      string
	Config  *runtimeapi.ContainerConfig
	Sandbox *runtimeapi.PodSandboxConfig
	Image   ocispec.ImageConfig
	Rootfs  string   // where the root file system is mounted, absolute
	Host    Host     // what the machine can do
	Cgroup  string   // of the container, as the OCI field cgroupsPath
	Files   Files    // of the sandbox
	Spaces  Spaces   // of the sandbox
	Images  []string // a directory for each mount of the config that is an image, "" for the others
}

// Spaces are paths of namespaces that a container joins.
type Spaces struct {
	Network, IPC, UTS, User string // "": the host's
	PID                     string // "": one of its own, unless HostPID
	HostPID                 bool
}

// Files are those of a sandbox that every container of it sees, as paths on the host. One that is "" is not mounted.
type Files struct {
	Hosts, Hostname, ResolvConf, Shm string
	Name                             string // the hostname itself
}

// Result is a configuration, and what was found while it was made.
type Result struct {
	Spec       *specs.Spec
	User       *runtimeapi.LinuxContainerUser
	StopSignal runtimeapi.Signal
	Warnings   []string // what was asked for and had to be left out
}

// Build makes the configuration of a container.
func Build(c *Container) (*Result, error) {
	sc := c.Config.GetLinux().GetSecurityContext()
	r := &Result{Spec: &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: c.Rootfs, Readonly: sc.GetReadonlyRootfs()},
		Linux:   &specs.Linux{CgroupsPath: c.Cgroup},
	}}
	if err := process(c, r); err != nil {
		return nil, err
	}
	namespaces(c, r.Spec)
	if err := mounts(c, r); err != nil {
		return nil, err
	}
	if err := devices(c, r.Spec); err != nil {
		return nil, err
	}
	if err := resources(c, r); err != nil {
		return nil, err
	}
	if err := confine(c, r.Spec); err != nil {
		return nil, err
	}
	var err error
	r.StopSignal, err = StopSignal(c.Config.StopSignal, c.Image.StopSignal)
	return r, err
}

// namespaces lists what a container joins or gets for itself. What is not listed is the host's.
func namespaces(c *Container, s *specs.Spec) {
	add := func(typ specs.LinuxNamespaceType, path string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: typ, Path: path})
	}
	add(specs.MountNamespace, "")
	if !c.Spaces.HostPID {
		add(specs.PIDNamespace, c.Spaces.PID)
	}
	for _, joined := range []struct {
		typ  specs.LinuxNamespaceType
		path string
	}{
		{specs.NetworkNamespace, c.Spaces.Network},
		{specs.IPCNamespace, c.Spaces.IPC},
		{specs.UTSNamespace, c.Spaces.UTS},
		{specs.UserNamespace, c.Spaces.User},
	} {
		if joined.path != "" {
			add(joined.typ, joined.path)
		}
	}
	if c.Host.CgroupV2 && !c.privileged() {
		add(specs.CgroupNamespace, "")
	}
}

// confine sets what guards the host: masked paths, seccomp, AppArmor and SELinux.
func confine(c *Container, s *specs.Spec) error {
	linux := c.Config.GetLinux()
	sc := linux.GetSecurityContext()
	switch {
	case c.privileged():
	case sc == nil:
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = MaskedPaths(), ReadonlyPaths()
	default:
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = sc.MaskedPaths, sc.ReadonlyPaths
	}
	if c.privileged() {
		return nil
	}
	var err error
	if s.Linux.Seccomp, err = seccomp(c, s.Process.Capabilities.Bounding); err != nil {
		return err
	}
	if s.Process.ApparmorProfile, err = apparmor(sc, c.Host); err != nil {
		return err
	}
	return selinux(sc, c.Host, s)
}

// privileged tells whether a container is to have the rights of the host.
func (c *Container) privileged() bool {
	return c.Config.GetLinux().GetSecurityContext().GetPrivileged()
}

// MaskedPaths are those of /proc and /sys that a container does not see by default.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

// ReadonlyPaths are those of /proc that a container cannot write by default.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// apparmor is the name of the profile of a container, "" for none.
func apparmor(sc *runtimeapi.LinuxContainerSecurityContext, host Host) (string, error) {
	name := ""
	if p := sc.GetApparmor(); p != nil {
		if p.ProfileType == runtimeapi.SecurityProfile_Localhost {
			name = p.LocalhostRef
		}
	} else if old, ok := strings.CutPrefix(sc.GetApparmorProfile(), "localhost/"); ok { //nolint:staticcheck // older agents say it so
		name = old
	}
	if name == "" {
		return "", nil
	}
	if !host.AppArmor {
		return "", fmt.Errorf("spec: AppArmor profile %q is asked for, and this machine has no AppArmor", name)
	}
	return strings.TrimPrefix(name, "localhost/"), nil
}

// selinux sets the labels of the process and of its mounts.
func selinux(sc *runtimeapi.LinuxContainerSecurityContext, host Host, s *specs.Spec) error {
	o := sc.GetSelinuxOptions()
	if o == nil || o.User+o.Role+o.Type+o.Level == "" {
		return nil
	}
	if !host.SELinux {
		return fmt.Errorf("spec: SELinux options are asked for (type %q, level %q), and this machine has no SELinux", o.Type, o.Level)
	}
	or := func(v, def string) string {
		if v == "" {
			return def
		}
		return v
	}
	level := or(o.Level, "s0")
	s.Process.SelinuxLabel = strings.Join([]string{or(o.User, "system_u"), or(o.Role, "system_r"), or(o.Type, "container_t"), level}, ":")
	s.Linux.MountLabel = strings.Join([]string{or(o.User, "system_u"), "object_r", "container_file_t", level}, ":")
	return nil
}
