//go:build linux

package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mounts lists the file systems of a container: the default ones, the sandbox's files, and those of its config.
func mounts(c *Container, r *Result) error {
	var own []specs.Mount
	for i, m := range c.Config.Mounts {
		made, err := mount(c, i)
		if err != nil {
			return fmt.Errorf("spec: mount %s: %w", m.ContainerPath, err)
		}
		own = append(own, made)
		switch m.Propagation {
		case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			r.Spec.Linux.RootfsPropagation = "rshared"
		case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			if r.Spec.Linux.RootfsPropagation == "" {
				r.Spec.Linux.RootfsPropagation = "rslave"
			}
		}
	}
	// Those nearer to the root come first, so that none hides another.
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	for _, m := range append(defaultMounts(c), sandboxMounts(c)...) {
		if !slices.ContainsFunc(own, func(o specs.Mount) bool { return o.Destination == m.Destination }) {
			r.Spec.Mounts = append(r.Spec.Mounts, m)
		}
	}
	r.Spec.Mounts = append(r.Spec.Mounts, own...)
	return nil
}

// defaultMounts are the kernel's file systems.
func defaultMounts(c *Container) []specs.Mount {
	access := "ro"
	if c.privileged() {
		access = "rw"
	}
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}}
	mqueue := specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}}
	if c.Spaces.User != "" && c.Spaces.Network == "" {
		sys = bind("/sys", "/sys", "rbind", "nosuid", "noexec", "nodev", access) // the namespace has no right to a sysfs of the host's network
	}
	if c.Spaces.User != "" && c.Spaces.IPC == "" {
		mqueue = bind("/dev/mqueue", "/dev/mqueue", "rbind", "nosuid", "noexec", "nodev")
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		mqueue,
		sys,
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
}

// sandboxMounts are the files that the containers of a sandbox share.
func sandboxMounts(c *Container) (out []specs.Mount) {
	access := "rw"
	if c.Config.GetLinux().GetSecurityContext().GetReadonlyRootfs() {
		access = "ro"
	}
	for _, f := range []struct{ source, path string }{
		{c.Files.Hosts, "/etc/hosts"},
		{c.Files.Hostname, "/etc/hostname"},
		{c.Files.ResolvConf, "/etc/resolv.conf"},
	} {
		if f.source != "" {
			out = append(out, bind(f.source, f.path, "rbind", "rprivate", access))
		}
	}
	if c.Files.Shm != "" {
		out = append(out, bind(c.Files.Shm, "/dev/shm", "rbind", "nosuid", "noexec", "nodev", "rprivate", "rw"))
	}
	return out
}

// bind is a mount of a path of the host.
func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options}
}

// mount is the i-th of the config.
func mount(c *Container, i int) (specs.Mount, error) {
	m := c.Config.Mounts[i]
	if m.ContainerPath == "" {
		return specs.Mount{}, errors.New("no path in the container is given")
	}
	source, err := mountSource(c, i)
	if err != nil {
		return specs.Mount{}, err
	}
	out := bind(source, path.Join("/", m.ContainerPath), "rbind")
	switch m.Propagation {
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		err = propagates(source, "shared:")
		out.Options = append(out.Options, "rshared")
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		err = propagates(source, "shared:", "master:")
		out.Options = append(out.Options, "rslave")
	default:
		out.Options = append(out.Options, "rprivate")
	}
	if err != nil {
		return specs.Mount{}, err
	}
	switch {
	case m.RecursiveReadOnly && !m.Readonly:
		return specs.Mount{}, errors.New("recursive read-only needs read-only")
	case m.RecursiveReadOnly && m.Propagation != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return specs.Mount{}, errors.New("recursive read-only needs private propagation")
	case m.RecursiveReadOnly:
		out.Options = append(out.Options, "rro")
	case m.Readonly || m.GetImage().GetImage() != "":
		out.Options = append(out.Options, "ro")
	default:
		out.Options = append(out.Options, "rw")
	}
	for _, o := range m.MountOptions {
		if !slices.Contains([]string{"noexec", "nodev", "nosuid", "exec", "dev", "suid", "noatime", "nodiratime", "relatime"}, o) {
			return specs.Mount{}, fmt.Errorf("option %q is none of a bind mount", o)
		}
		out.Options = append(out.Options, o)
	}
	out.UIDMappings, out.GIDMappings = IDMappings(m.UidMappings), IDMappings(m.GidMappings)
	return out, nil
}

// mountSource is the path on the host that a mount of the config shows.
func mountSource(c *Container, i int) (string, error) {
	m := c.Config.Mounts[i]
	if m.GetImage().GetImage() != "" {
		if m.HostPath != "" {
			return "", errors.New("it is both an image and a path of the host")
		}
		if m.ImageSubPath == "" {
			return c.Images[i], nil
		}
		source, err := securejoin.SecureJoin(c.Images[i], m.ImageSubPath)
		if err == nil && !exists(source) {
			err = fmt.Errorf("the image has no path %q", m.ImageSubPath)
		}
		return source, err
	}
	source, err := filepath.EvalSymlinks(m.HostPath)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return "", fmt.Errorf("the host has no path %q", m.HostPath)
	case err != nil:
		return "", fmt.Errorf("the host's path %q: %w", m.HostPath, err)
	}
	return source, nil
}

// propagates checks that mounts below a path of the host can be seen in a container: that it lies in a mount with one of the fields.
func propagates(source string, fields ...string) error {
	infos, err := mountinfo.GetMounts(mountinfo.ParentsFilter(source))
	if err != nil {
		return err
	}
	var in *mountinfo.Info
	for _, info := range infos {
		if in == nil || len(info.Mountpoint) >= len(in.Mountpoint) {
			in = info
		}
	}
	if in == nil {
		return fmt.Errorf("%s lies in no mount", source)
	}
	for _, f := range strings.Fields(in.Optional) {
		if slices.ContainsFunc(fields, func(want string) bool { return strings.HasPrefix(f, want) }) {
			return nil
		}
	}
	return fmt.Errorf("%s lies in the mount %s, which is private: mounts do not propagate there", source, in.Mountpoint)
}

// IDMappings are CRI's mappings of users or groups in OCI's terms.
func IDMappings(in []*runtimeapi.IDMapping) (out []specs.LinuxIDMapping) {
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{HostID: m.HostId, ContainerID: m.ContainerId, Size: m.Length})
	}
	return out
}
