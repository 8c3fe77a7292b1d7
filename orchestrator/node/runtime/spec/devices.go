//go:build linux

package spec

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// devices lists the device files of a container besides the usual ones, and what its cgroup allows.
func devices(c *Container, s *specs.Spec) error {
	s.Linux.Resources = &specs.LinuxResources{}
	if c.privileged() {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		if c.Spaces.User == "" {
			found, err := devicesIn("/dev")
			if err != nil {
				return err
			}
			s.Linux.Devices = found
		}
	} else {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	}
	for _, d := range c.Config.Devices {
		source, err := filepath.EvalSymlinks(d.HostPath)
		if err != nil {
			return fmt.Errorf("spec: device %s: %w", d.HostPath, err)
		}
		found, err := devicesIn(source)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("spec: %s is no device", d.HostPath)
		}
		for _, dev := range found {
			dev.Path = filepath.Join("/", d.ContainerPath, strings.TrimPrefix(dev.Path, source))
			s.Linux.Devices = slices.DeleteFunc(s.Linux.Devices, func(other specs.LinuxDevice) bool { return other.Path == dev.Path })
			s.Linux.Devices = append(s.Linux.Devices, dev)
			access := d.Permissions
			if access == "" {
				access = "rwm"
			}
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: access,
			})
		}
	}
	return nil
}

// hiddenDevices are folders and files of /dev that are a container's own.
var hiddenDevices = []string{"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev", "/dev/console", "/dev/ptmx"}

// devicesIn lists the devices at or below a path.
func devicesIn(path string) (found []specs.LinuxDevice, err error) {
	err = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil // gone since it was listed
		case err != nil:
			return fmt.Errorf("spec: devices of %s: %w", path, err)
		case slices.Contains(hiddenDevices, path):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.Type()&fs.ModeDevice == 0:
			return nil
		}
		dev, err := device(path)
		if err == nil {
			found = append(found, dev)
		}
		return err
	})
	return found, err
}

// device describes a device file.
func device(path string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return specs.LinuxDevice{}, fmt.Errorf("spec: device %s: %w", path, err)
	}
	typ := "c"
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		typ = "b"
	}
	mode := os.FileMode(st.Mode &^ unix.S_IFMT)
	return specs.LinuxDevice{
		Path: path, Type: typ, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, nil
}
