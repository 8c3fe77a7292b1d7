package unpack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const maxLinks = 40

// parent opens the directory that an entry lies in. Symbolic links on the way are followed as if the layer were the root of
// the system. Directories that no entry has described are made.
func (u *unpacker) parent(dir string) (handle, error) {
	if dir == "." {
		dir = ""
	}
	if fd, err := u.root.open(dir); err == nil {
		return handle{fd, dir}, nil
	}
	at, err := u.walk(dir)
	if err != nil {
		return handle{}, err
	}
	fd, err := u.root.open(at)
	return handle{fd, at}, err
}

// walk is the slow way of parent: one element after the other. It returns the canonical path.
func (u *unpacker) walk(dir string) (string, error) {
	at, links := "", 0
	todo := strings.Split(dir, "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			if at = path.Dir(at); at == "." {
				at = ""
			}
			continue
		}
		fd, err := u.root.open(at)
		if err != nil {
			return "", err
		}
		target, err := u.step(handle{fd, at}, name)
		if err != nil {
			return "", err
		}
		if target == "" {
			at = path.Join(at, name)
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		if target[0] == '/' {
			at = ""
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, nil
}

// step sees to it that name is a directory, or returns where it leads if it is a symbolic link.
func (u *unpacker) step(in handle, name string) (target string, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(in.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return "", u.imply(in, name)
	case err != nil:
		return "", err
	case isDir(&st):
		return "", nil
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return readlink(in.fd, name)
	case isWhiteout(&st): // the layers below are hidden: nothing is to be had from them
		if err := unix.Unlinkat(in.fd, name, 0); err != nil {
			return "", err
		}
		if err := unix.Mkdirat(in.fd, name, 0o755); err != nil {
			return "", err
		}
		return "", setXattr(in.fd, name, opaqueXattr, []byte("y"))
	}
	return "", fmt.Errorf("%q is no directory", path.Join(in.path, name))
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", unix.ENOENT
	}
	return string(buf[:n]), nil
}

// imply makes a directory that no entry has described, with the attributes that it has in the layers below.
func (u *unpacker) imply(in handle, name string) error {
	if err := unix.Mkdirat(in.fd, name, 0o755); err != nil {
		return err
	}
	u.result.Inodes++
	full := path.Join(in.path, name)
	u.implicit[full] = true
	dir, base, st, err := u.below(full)
	if err != nil || base == "" || !isDir(&st) {
		return err
	}
	u.times = append(u.times, dirTime{full, time.Unix(st.Mtim.Unix())})
	return copyAttributes(dir, base, &st, in.fd, name)
}

// below finds what the layers below show at a path that is not the root: the directory and the name in it, or an empty name
// if they show nothing.
func (u *unpacker) below(full string) (dir int, base string, st unix.Stat_t, err error) {
	visible := u.parents
	for i, t := range visible {
		if isOpaque(t.fd, "") {
			visible = visible[:i+1]
			break
		}
	}
	elements := strings.Split(full, "/")
	for i := range elements {
		prefix, found := strings.Join(elements[:i+1], "/"), false
		for j := 0; j < len(visible); j++ {
			t := visible[j]
			s, err := t.stat(prefix)
			switch {
			case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
				continue
			case err != nil:
				return -1, "", st, err
			case !isDir(&s):
				visible = visible[:j] // hides what lies below
				if !found && i == len(elements)-1 && !isWhiteout(&s) {
					dir, err := t.open(strings.Join(elements[:i], "/"))
					return dir, elements[i], s, err
				}
				continue
			}
			d, err := t.open(strings.Join(elements[:i], "/"))
			if err != nil {
				return -1, "", st, err
			}
			if !found {
				dir, base, st, found = d, elements[i], s, true
			}
			if isOpaque(d, elements[i]) {
				visible = visible[:j+1]
			}
		}
		if !found {
			return -1, "", st, nil
		}
	}
	return dir, base, st, nil
}

// copyUp copies a file of the layers below into this one, as the target of a hard link.
func (u *unpacker) copyUp(to handle, name string) error {
	if !u.opts.OnParents {
		return ErrNeedsParents
	}
	dir, base, st, err := u.below(path.Join(to.path, name))
	if err != nil {
		return err
	}
	if base == "" || isOpaque(to.fd, "") {
		return unix.ENOENT
	}
	u.result.Inodes++
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = u.copyFile(dir, base, to.fd, name)
	case unix.S_IFLNK:
		var target string
		if target, err = readlink(dir, base); err == nil {
			err = unix.Symlinkat(target, to.fd, name)
		}
	default:
		err = errors.New("it is no file")
	}
	if err == nil {
		err = copyAttributes(dir, base, &st, to.fd, name)
	}
	if err != nil {
		return err
	}
	return setTimes(to.fd, name, time.Unix(st.Mtim.Unix()))
}

func (u *unpacker) copyFile(dir int, base string, to int, name string) error {
	in, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(in), base)
	defer func() { _ = src.Close() }()
	out, err := unix.Openat(to, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(out), name)
	n, err := io.Copy(dst, src)
	u.result.Bytes += (n + blockSize - 1) / blockSize * blockSize
	return errors.Join(err, dst.Close())
}
