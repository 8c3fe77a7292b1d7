package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attachLoop makes a block device of a file. A device that clears itself is gone when the last that holds it lets go: the
// file that is returned, and after that a mount. The caller closes it.
func attachLoop(image string, selfClearing bool) (*os.File, error) {
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = backing.Close() }()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices: %w", err)
	}
	defer func() { _ = ctl.Close() }()
	for range 64 { // others take devices too
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("loop devices: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) { // no udev here
			if err = unix.Mknod(fmt.Sprintf("/dev/loop%d", n), unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(n)))); err == nil || errors.Is(err, os.ErrExist) {
				dev, err = os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("loop devices: %w", err)
		}
		conf := &unix.LoopConfig{Fd: uint32(backing.Fd())}
		if selfClearing {
			conf.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		}
		copy(conf.Info.File_name[:len(conf.Info.File_name)-1], image)
		err = unix.IoctlLoopConfigure(int(dev.Fd()), conf)
		if err == nil {
			return dev, nil
		}
		_ = dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("loop device of %s: %w", image, err)
		}
	}
	return nil, fmt.Errorf("loop device of %s: none is free", image)
}

// deviceOf gives the device of a file: the one that there is, or a new one that clears itself. There is never a second, since
// two devices of the same file would know nothing of each other: a container that has not ended yet may still hold the first.
// The caller closes it.
func deviceOf(image string) (*os.File, error) {
	devices, err := loopsOf(image)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		f, err := os.OpenFile(d, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		// now that it is held it does not clear itself; it may have done so before
		if still, err := loopsOf(image); err == nil && slices.Contains(still, d) {
			if err := refreshLoop(d); err != nil {
				_ = f.Close()
				return nil, err
			}
			return f, nil
		}
		_ = f.Close()
	}
	return attachLoop(image, true)
}

// loopsOf lists the devices that a file is attached to.
func loopsOf(image string) ([]string, error) {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var devices []string
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // detached meanwhile
		}
		if strings.TrimSuffix(string(b), "\n") == image {
			devices = append(devices, "/dev/"+strings.Split(name, "/")[3])
		}
	}
	return devices, nil
}

// detachLoop ends a device. One that is in use ends when it no longer is.
func detachLoop(device string) error {
	f, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CLR_FD)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	return err
}

// refreshLoop makes a device as large as its file is.
func refreshLoop(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("capacity of %s: %w", device, err)
	}
	return nil
}

// sector is the unit in which the kernel counts devices, in bytes.
const sector = 512

// sizeOfDevice is in bytes.
func sizeOfDevice(device string) (int64, error) {
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "size"))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n * sector, err
}

// resizeExt4 is EXT4_IOC_RESIZE_FS of Linux: the number of blocks that a mounted file system shall have.
const resizeExt4 = 0x40086610

// growMounted makes a mounted ext4 as large as size, in bytes.
func growMounted(mountpoint string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(mountpoint, &st); err != nil {
		return err
	}
	dir, err := os.Open(mountpoint)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	blocks := uint64(size) / uint64(st.Bsize)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), resizeExt4, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("growing the file system on %s: %w", mountpoint, errno)
	}
	return nil
}

// sizeOfExt4 reads from the superblock how large a file system is, in bytes; 0 if it is no ext4.
func sizeOfExt4(device string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	if le.Uint16(super[0x38:]) != 0xEF53 {
		return 0, nil
	}
	blocks := uint64(le.Uint32(super[0x4:]))
	if le.Uint32(super[0x60:])&0x80 != 0 { // more than 32 bits
		blocks |= uint64(le.Uint32(super[0x150:])) << 32
	}
	return int64(blocks << (10 + le.Uint32(super[0x18:]))), nil
}

// InUse says whether an image has a device.
func InUse(image string) (bool, error) {
	path, err := filepath.EvalSymlinks(image)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	devices, err := loopsOf(path)
	return len(devices) > 0, err
}
