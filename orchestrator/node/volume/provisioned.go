package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"
)

// Provisioned mounts the persistent volumes of a CSI driver. Calls for the same volume come one at a time.
type Provisioned interface {
	// Driver is the name in the volumes' source.
	Driver() string
	// Mount makes the file system of a volume and mounts it on target. It is idempotent.
	Mount(ctx context.Context, v Request, target string) error
	// Attach makes the volume a block device, and says where it is. It is idempotent.
	Attach(ctx context.Context, v Request) (device string, err error)
	// Release takes away what Attach made; what Mount mounted is unmounted already. It is idempotent.
	Release(ctx context.Context, v Request) error
	// Grow makes a volume in use as large as it should be. It says whether anything had to be done. target is where it is
	// mounted, or "" if it is a block device.
	Grow(ctx context.Context, v Request, target string) (grown bool, err error)
}

// Request names a volume of a driver.
type Request struct {
	Name         string            `json:"name"` // of the PersistentVolume
	Driver       string            `json:"driver"`
	Handle       string            `json:"handle"`
	Attributes   map[string]string `json:"attributes,omitempty"`
	FSType       string            `json:"fsType,omitempty"`
	MountOptions []string          `json:"mountOptions,omitempty"`
	Size         int64             `json:"size"` // bytes
	ReadOnly     bool              `json:"readOnly,omitempty"`
	Block        bool              `json:"block,omitempty"`
}

// HostPathDriver is the driver of volumes that are images on the node's disk.
const HostPathDriver = "hostpath.keelson.io"

// The volume's attributes that the driver reads, and the file below the path that is the volume.
const (
	AttributePath = "path"
	ImageName     = "volume.img"
)

// ErrGrowOffline says that a volume can only grow while no pod uses it.
var ErrGrowOffline = errors.New("the file system cannot grow while it is mounted on this node: it will when no pod uses it")

// loopImages are volumes that are an ext4 in a file each, by way of a loop device: they hold what their size says and no
// more.
type loopImages struct{ lg *zap.Logger }

func (l *loopImages) Driver() string { return HostPathDriver }

// image is the file of a volume, as large as it should be. It is sparse, and never shrinks.
func (l *loopImages) image(v Request) (string, int64, error) {
	dir := v.Attributes[AttributePath]
	if !filepath.IsAbs(dir) {
		return "", 0, fmt.Errorf("volume %s: attribute %q is %q, not an absolute path", v.Name, AttributePath, dir)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", 0, err
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", 0, err
	}
	path := filepath.Join(dir, ImageName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	if info.Size() >= v.Size {
		return path, info.Size(), nil
	}
	return path, v.Size, f.Truncate(v.Size)
}

// Mount formats the image if it is new, and grows its file system if the image has grown.
func (l *loopImages) Mount(_ context.Context, v Request, target string) error {
	path, size, err := l.image(v)
	if err != nil {
		return err
	}
	if m, err := mounted(target); err != nil || m != nil {
		return err
	}
	dev, err := deviceOf(path)
	if err != nil {
		return err
	}
	defer func() { _ = dev.Close() }() // the mount holds it, or it is gone
	return l.mount(dev.Name(), size, v, target)
}

func (l *loopImages) mount(device string, size int64, v Request, target string) error {
	fsType := v.FSType
	if fsType == "" {
		fsType = "ext4"
	}
	options := append([]string(nil), v.MountOptions...)
	mounter := mountutils.NewSafeFormatAndMount(mountutils.NewWithoutSystemd(""), utilexec.New())
	if err := mounter.FormatAndMount(device, target, fsType, options); err != nil {
		return err
	}
	have, err := sizeOfExt4(device)
	if err != nil || have == 0 || !isSmaller(have, size) {
		return err
	}
	switch err = growMounted(target, size); {
	case err == nil:
		return nil
	case !errors.Is(err, unix.EPERM): // it is good as it is
		l.lg.Warn("a volume does not grow", zap.String("volume", v.Name), zap.Error(err))
		return nil
	}
	// this node may not grow what is mounted; nobody uses it yet
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	if err := growOffline(device); err != nil { // it is used elsewhere, or damaged: it may be mounted as it is, and stays small
		l.lg.Warn("a volume does not grow", zap.String("volume", v.Name), zap.Error(err))
	}
	return mounter.FormatAndMount(device, target, fsType, options)
}

// growOffline makes an ext4 that is not mounted as large as its device.
func growOffline(device string) error {
	exec := utilexec.New()
	if out, err := exec.Command("e2fsck", "-f", "-p", device).CombinedOutput(); err != nil {
		var exit utilexec.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() > 1 { // 1: errors were mended
			return fmt.Errorf("e2fsck: %w: %s", err, out)
		}
	}
	if out, err := exec.Command("resize2fs", device).CombinedOutput(); err != nil {
		return fmt.Errorf("resize2fs: %w: %s", err, out)
	}
	return nil
}

// isSmaller compares the size of a file system with that of its device: a remainder that is smaller than a group of blocks
// may not be worth one.
func isSmaller(have, device int64) bool { return device-have >= 1<<20 }

// Grow makes the image larger, then its device, then its file system.
func (l *loopImages) Grow(_ context.Context, v Request, target string) (bool, error) {
	path, size, err := l.image(v)
	if err != nil {
		return false, err
	}
	if target == "" {
		return growDevices(path, size)
	}
	m, err := mounted(target)
	if err != nil || m == nil {
		return false, err
	}
	have, err := sizeOfExt4(m.Source)
	if err != nil || have == 0 || !isSmaller(have, size) {
		return false, err
	}
	if err := refreshLoop(m.Source); err != nil {
		return false, err
	}
	err = growMounted(target, size)
	if errors.Is(err, unix.EPERM) {
		err = ErrGrowOffline
	}
	return err == nil, err
}

// growDevices makes the devices of an image as large as it is.
func growDevices(image string, size int64) (grown bool, err error) {
	devices, err := loopsOf(image)
	for _, d := range devices {
		have, sizeErr := sizeOfDevice(d)
		switch {
		case sizeErr != nil:
			err = errors.Join(err, sizeErr)
		case have < size&^(sector-1):
			err = errors.Join(err, refreshLoop(d))
			grown = true
		}
	}
	return grown && err == nil, err
}

// Attach gives a device that stays until Release.
func (l *loopImages) Attach(_ context.Context, v Request) (string, error) {
	path, _, err := l.image(v)
	if err != nil {
		return "", err
	}
	devices, err := loopsOf(path)
	if err != nil {
		return "", err
	}
	if len(devices) > 0 {
		return devices[0], refreshLoop(devices[0])
	}
	dev, err := attachLoop(path, false)
	if err != nil {
		return "", err
	}
	return dev.Name(), dev.Close()
}

// Release detaches all devices of the image.
func (l *loopImages) Release(_ context.Context, v Request) error {
	dir, err := filepath.EvalSymlinks(v.Attributes[AttributePath])
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	devices, err := loopsOf(filepath.Join(dir, ImageName))
	for _, d := range devices {
		err = errors.Join(err, detachLoop(d))
	}
	return err
}
