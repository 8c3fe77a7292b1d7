package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openBeneath opens a path below a directory, as the kernel finds it without ever leaving the directory: links may point
// about inside it, absolute ones and those that lead out are an error. It is an O_PATH descriptor: good for being mounted and
// asked about, and opening it has no effect on what is opened.
func openBeneath(dirfd int, path string) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(dirfd, path, how)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // the tree was changed meanwhile
			continue
		case errors.Is(err, unix.ENOSYS):
			return -1, errors.New("subPath needs Linux 5.6 or later")
		}
		return fd, err
	}
}

// openSubPath opens a path below a volume. What is missing of it is made as directories with the mode of the volume.
func openSubPath(volume, path string) (int, error) {
	top, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(top) }()
	fd, err := openBeneath(top, path)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return -1, err
	}
	if err := makeBeneath(top, path, st.Mode&0o7777); err != nil {
		return -1, err
	}
	return openBeneath(top, path)
}

// makeBeneath makes directories along a path, one after the other, each in one that was opened beneath top.
func makeBeneath(top int, path string, mode uint32) error {
	parts := strings.Split(path, "/")
	for i := range parts {
		parent, err := openBeneath(top, strings.Join(append([]string{"."}, parts[:i]...), "/"))
		if err != nil {
			return err
		}
		err = makeIn(parent, parts[i], mode)
		_ = unix.Close(parent)
		if err != nil {
			return err
		}
	}
	return nil
}

func makeIn(parent int, name string, mode uint32) error {
	err := unix.Mkdirat(parent, name, mode&0o777)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode) // whatever the umask
}

// checkSubPath takes relative paths without steps back, and cleans them.
func checkSubPath(path string) (string, error) {
	if filepath.IsAbs(path) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", path)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", path)
		}
	}
	if strings.ContainsRune(path, 0) {
		return "", fmt.Errorf("unable to provision SubPath %q: a zero byte", path)
	}
	return filepath.Clean(path), nil
}

// bindSubPath binds what a path below a volume is now to target, which nobody but the node can reach. A container that
// changes the path meanwhile, or later, does not change what target is.
func bindSubPath(volume, path, target string) error {
	fd, err := openSubPath(volume, path)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var want unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return err
	}
	if m, err := mounted(target); err != nil {
		return err
	} else if m != nil {
		var have unix.Stat_t
		if err := unix.Stat(target, &have); err == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			return nil
		}
		if err := unmountBelow(target); err != nil { // it is another file now, as after an update of a ConfigMap
			return err
		}
	}
	if err := placeFor(target, want.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND, "")
}

// placeFor makes the directory or the file that something is mounted on.
func placeFor(target string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	info, err := os.Lstat(target)
	switch {
	case err == nil && info.IsDir() == dir:
		return nil
	case err == nil:
		if err := os.Remove(target); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if dir {
		return os.Mkdir(target, 0o750)
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}
