package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// fixed are the options of every mount but those that only a writable one has.
var fixed = [][2]string{{"index", "off"}, {"metacopy", "off"}}

// valueSize is what fsconfig takes as a value, with its final zero.
const valueSize = 256

// Mount mounts an overlay on a target directory that exists.
func Mount(s Spec) error {
	if len(s.Lower) == 0 {
		return errors.New("overlay: no layers")
	}
	if s.Upper != "" {
		if err := os.RemoveAll(filepath.Join(s.Work, "work", "incompat")); err != nil {
			return fmt.Errorf("overlay: %w", err)
		}
	} else if len(s.Lower) == 1 {
		s.Lower = []string{s.Lower[0], s.Empty}
	}
	fds, release, err := mapped(&s)
	if err != nil {
		return err
	}
	defer release()
	err = mountNew(s, fds)
	if errors.Is(err, errOld) {
		err = mountOld(s, fds)
	}
	if err != nil {
		return fmt.Errorf("overlay: mount on %s: %w", s.Target, explain(err))
	}
	return nil
}

func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the kernel has no overlayfs: %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("it takes root: %w", err)
	}
	return err
}

// errOld tells that the kernel wants the layers in one string.
var errOld = errors.New("no lowerdir+")

// mountNew mounts with the calls that take one layer at a time. fds are id-mapped layers, which stand for the lower ones.
func mountNew(s Spec, fds []int) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) {
		return errOld
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetString(fs, "source", s.source()); err != nil {
		return told(fs, "source", err)
	}
	if err := lowers(fs, s, fds); err != nil {
		return err
	}
	options := fixed
	if s.Upper != "" {
		options = append([][2]string{{"redirect_dir", "on"}}, fixed...)
		for key, dir := range map[string]string{"upperdir": s.Upper, "workdir": s.Work} {
			if err := setDir(fs, key, dir); err != nil {
				return told(fs, key, err)
			}
		}
		if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
			return told(fs, "volatile", err)
		}
	}
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return told(fs, o[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return told(fs, "create", err)
	}
	attrs := 0
	if s.Upper == "" {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	defer func() { _ = unix.Close(mnt) }()
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, s.Target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// lowers adds the layers.
func lowers(fs int, s Spec, fds []int) error {
	for i, dir := range s.Lower {
		if fds == nil {
			if err := setDir(fs, "lowerdir+", dir); err != nil {
				if errors.Is(err, unix.EINVAL) && i == 0 {
					return errOld
				}
				return told(fs, dir, err)
			}
			continue
		}
		if err := unix.FsconfigSetFd(fs, "lowerdir+", fds[i]); err != nil {
			if errors.Is(err, unix.EINVAL) && i == 0 {
				return errOld
			}
			return told(fs, dir, err)
		}
	}
	return nil
}

// setDir sets an option to a directory. One whose path is too long is named by a descriptor.
func setDir(fs int, key, dir string) error {
	if len(dir) < valueSize {
		return unix.FsconfigSetString(fs, key, dir)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.FsconfigSetString(fs, key, fmt.Sprintf("/proc/self/fd/%d", fd))
}

// told adds to an error what the kernel left in the log of the context.
func told(fs int, what string, err error) error {
	buf := make([]byte, 1024)
	n, rerr := unix.Read(fs, buf)
	if rerr != nil || n <= 2 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w (%s)", what, err, strings.TrimSpace(string(buf[2:n]))) // after "e ", "w " or "i "
}

// mountOld mounts with one string of options, from a thread whose working directory is where the layers are.
func mountOld(s Spec, fds []int) error {
	lower := s.Lower
	if fds != nil {
		paths, release, err := attach(s, fds)
		if err != nil {
			return err
		}
		defer release()
		lower = paths
	}
	base := filepath.Dir(filepath.Dir(lower[0]))
	rel := make([]string, len(lower))
	for i, dir := range lower {
		r, err := filepath.Rel(base, dir)
		if err != nil {
			return err
		}
		rel[i] = strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(r)
	}
	options := "lowerdir=" + strings.Join(rel, ":")
	for _, o := range fixed {
		options += "," + o[0] + "=" + o[1]
	}
	flags := uintptr(0)
	if s.Upper == "" {
		flags = unix.MS_RDONLY
	} else {
		options += ",redirect_dir=on,upperdir=" + escape(s.Upper) + ",workdir=" + escape(s.Work)
	}
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("%d layers are too many for this kernel: Linux 6.7 takes more", len(lower))
	}
	return inDirectory(base, func() error {
		if s.Upper != "" && unix.Mount(s.source(), s.Target, "overlay", flags, options+",volatile") == nil {
			return nil // Linux 5.10
		}
		return unix.Mount(s.source(), s.Target, "overlay", flags, options)
	})
}

func (s *Spec) source() string { return cmp.Or(s.Source, "overlay") }

func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(path)
}

// inDirectory runs f on a thread of its own with a working directory of its own.
func inDirectory(dir string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir(dir)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Unmount removes all mounts of a target. It does nothing if there is none.
func Unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil || errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil // none left
		default:
			return fmt.Errorf("overlay: unmount %s: %w", target, err)
		}
	}
}

// Source is the source of the overlay that a target is the root of, "" if it is none. Of several that lie over each other the
// topmost counts.
func Source(target string) (string, error) {
	if is, err := Mounted(target); err != nil || !is {
		return "", err
	}
	real, err := filepath.EvalSymlinks(target)
	if err != nil {
		return "", fmt.Errorf("overlay: %s: %w", target, err)
	}
	all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(real))
	if err != nil {
		return "", fmt.Errorf("overlay: the table of mounts: %w", err)
	}
	if len(all) == 0 {
		return "", nil // it went meanwhile
	}
	return all[len(all)-1].Source, nil
}

// Mounted tells whether a target is the root of an overlay.
func Mounted(target string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("overlay: %s: %w", target, err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return false, fmt.Errorf("overlay: %s: %w", target, err)
	}
	return fs.Type == unix.OVERLAYFS_SUPER_MAGIC, nil
}
