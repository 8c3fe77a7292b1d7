package unpack

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// handle is an open directory of a tree. Its descriptor belongs to the tree and lives until kept other directories were used
// since.
type handle struct {
	fd   int
	path string // canonical: it goes through no symbolic link
}

// kept is how many open directories a tree keeps: archives go through a tree in order.
const kept = 16

// tree is a directory below which paths are resolved without ever leaving it.
type tree struct {
	fd   int
	last []handle // most recently used first
}

func openTree(dir string) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &tree{fd: fd}, nil
}

func (t *tree) close() {
	for _, h := range t.last {
		_ = unix.Close(h.fd)
	}
	_ = unix.Close(t.fd)
}

// open returns the descriptor of the directory at a canonical path. ELOOP: there is a symbolic link on the way.
func (t *tree) open(path string) (int, error) {
	if path == "" {
		return t.fd, nil
	}
	for i, h := range t.last {
		if h.path == path {
			copy(t.last[1:i+1], t.last[:i])
			t.last[0] = h
			return h.fd, nil
		}
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd, err := unix.Openat2(t.fd, path, &how)
	for errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		fd, err = unix.Openat2(t.fd, path, &how)
	}
	if err != nil {
		return -1, err
	}
	if len(t.last) == kept {
		_ = unix.Close(t.last[kept-1].fd)
		t.last = t.last[:kept-1]
	}
	t.last = append([]handle{{fd, path}}, t.last...)
	return fd, nil
}

// forget drops what is open at a path and below it.
func (t *tree) forget(path string) {
	left := t.last[:0]
	for _, h := range t.last {
		if h.path == path || strings.HasPrefix(h.path, path+"/") {
			_ = unix.Close(h.fd)
			continue
		}
		left = append(left, h)
	}
	t.last = left
}

// stat describes what is at a canonical path, without following it.
func (t *tree) stat(path string) (st unix.Stat_t, err error) {
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i], path[i+1:]
	}
	fd, err := t.open(dir)
	if err != nil {
		return st, err
	}
	if path == "" {
		return st, unix.Fstat(fd, &st)
	}
	return st, unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
}

// within is a path by which calls that know no directory descriptors reach a name, or with an empty one the directory itself.
func within(dir int, name string) string {
	if name == "" {
		return fmt.Sprintf("/proc/self/fd/%d", dir)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
}

func removeAll(dir int, name string) error { return os.RemoveAll(within(dir, name)) }

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

func isOpaque(dir int, name string) bool {
	var b [1]byte
	var n int
	var err error
	if name == "" {
		n, err = unix.Fgetxattr(dir, opaqueXattr, b[:])
	} else {
		n, err = unix.Lgetxattr(within(dir, name), opaqueXattr, b[:])
	}
	return err == nil && n == 1 && b[0] == 'y'
}
