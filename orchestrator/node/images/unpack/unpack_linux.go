package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
	opaqueXattr    = "trusted.overlay.opaque"
	blockSize      = 4096
)

// Supported tells whether this process can unpack layers.
func Supported() bool { return os.Geteuid() == 0 }

// unpacker is one layer on its way to the disk.
type unpacker struct {
	root    *tree
	opts    Options
	parents []*tree
	buf     []byte

	// implicit holds the directories that no entry has described so far, by canonical path.
	implicit map[string]bool
	times    []dirTime // set last: what is made in a directory changes its time
	result   Result
}

type dirTime struct {
	path string
	mod  time.Time
}

// Layer unpacks an uncompressed tar into the empty directory dir. On errors the directory is left as it is.
func Layer(ctx context.Context, r io.Reader, dir string, opts Options) (Result, error) {
	if !Supported() {
		return Result{}, ErrUnsupported
	}
	root, err := openTree(dir)
	if err != nil {
		return Result{}, err
	}
	defer root.close()
	u := &unpacker{root: root, opts: opts, buf: make([]byte, 256<<10), implicit: map[string]bool{}}
	for _, p := range opts.Parents {
		t, err := openTree(p)
		if err != nil {
			return Result{}, err
		}
		defer t.close()
		u.parents = append(u.parents, t)
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Result{}, fmt.Errorf("unpack: malformed tar: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		if err := u.entry(h, tr); err != nil {
			return Result{}, fmt.Errorf("unpack: %q: %w", h.Name, err)
		}
	}
	return u.finish()
}

// finish sets what can only be set when everything is there.
func (u *unpacker) finish() (Result, error) {
	if len(u.implicit) > 0 && !u.opts.OnParents {
		return Result{}, ErrNeedsParents
	}
	for _, t := range u.times { // of two for one directory the later one holds
		d, err := u.root.open(t.path)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // replaced by a later entry
		}
		if err != nil {
			return Result{}, err
		}
		if err := setTimes(d, "", t.mod); err != nil {
			return Result{}, err
		}
	}
	return u.result, nil
}

// clean makes of an entry's name a path relative to the root, "" for the root itself. What would lead out of the root stays
// at it, as it does for a process whose root this is.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := clean(h.Name)
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root of a layer is no directory")
		}
		return u.rootEntry(h)
	}
	base := path.Base(name)
	if i := strings.Index("/"+name, "/"+metaPrefix); i >= 0 && name[i:] != opaqueMarker {
		return nil // housekeeping of aufs
	}
	parent, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	switch {
	case base == opaqueMarker:
		return u.opaque(parent)
	case strings.HasPrefix(base, whiteoutPrefix):
		return u.whiteout(parent, base[len(whiteoutPrefix):])
	}
	return u.make(parent, base, h, r)
}

func (u *unpacker) rootEntry(h *tar.Header) error {
	fd, err := u.root.open("")
	if err != nil {
		return err
	}
	u.result.Root = &Attr{UID: h.Uid, GID: h.Gid, Mode: uint32(h.Mode) & 0o7777}
	u.times = append(u.times, dirTime{"", h.ModTime})
	return setAttributes(fd, "", h)
}

// opaque marks a directory as hiding what lies below it. Overlayfs does not look at the mark of a root.
func (u *unpacker) opaque(parent handle) error {
	if parent.path == "" {
		u.result.Opaque = true
	}
	return setXattr(parent.fd, "", opaqueXattr, []byte("y"))
}

// whiteout hides a name of the layers below, unless this layer has an entry of that name, whatever comes first.
func (u *unpacker) whiteout(parent handle, name string) error {
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("a whiteout of %q", name)
	}
	var st unix.Stat_t
	err := unix.Fstatat(parent.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return setXattr(parent.fd, name, opaqueXattr, []byte("y"))
	case err == nil:
		return nil
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	u.result.Inodes++
	return unix.Mknodat(parent.fd, name, unix.S_IFCHR, 0)
}

// make makes an entry in its parent.
func (u *unpacker) make(parent handle, base string, h *tar.Header, r io.Reader) error {
	full := path.Join(parent.path, base)
	hidden, merged, err := u.displace(parent, base, full, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	mode := uint32(h.Mode) & 0o7777
	u.result.Inodes++
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(parent.fd, base, h, r)
	case tar.TypeDir:
		if !merged {
			err = unix.Mkdirat(parent.fd, base, 0o700)
		}
		delete(u.implicit, full)
		u.times = append(u.times, dirTime{full, h.ModTime})
		if err == nil && hidden {
			err = setXattr(parent.fd, base, opaqueXattr, []byte("y"))
		}
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, parent.fd, base)
	case tar.TypeLink:
		u.result.Inodes--
		return u.link(parent.fd, base, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return errors.New("a character device 0/0")
		}
		err = unix.Mknodat(parent.fd, base, mode|fileType(h.Typeflag), int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	default:
		u.result.Inodes--
		return fmt.Errorf("an entry of type %q", h.Typeflag)
	}
	if err != nil {
		return err
	}
	if err := setAttributes(parent.fd, base, h); err != nil || h.Typeflag == tar.TypeDir {
		return err
	}
	return setTimes(parent.fd, base, h.ModTime)
}

func fileType(flag byte) uint32 {
	switch flag {
	case tar.TypeChar:
		return unix.S_IFCHR
	case tar.TypeBlock:
		return unix.S_IFBLK
	}
	return unix.S_IFIFO
}

// displace removes what an earlier entry of the same name made. hidden: it was a whiteout; merged: both are directories, and
// the earlier one stays.
func (u *unpacker) displace(parent handle, base, full string, dir bool) (hidden, merged bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	u.result.Inodes--
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if dir {
			return false, true, nil
		}
		u.root.forget(full)
		for p := range u.implicit {
			if p == full || strings.HasPrefix(p, full+"/") {
				delete(u.implicit, p)
			}
		}
		return false, false, removeAll(parent.fd, base)
	}
	hidden = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
	return hidden, false, unix.Unlinkat(parent.fd, base, 0)
}

// file writes a regular file.
func (u *unpacker) file(dir int, base string, h *tar.Header, r io.Reader) error {
	fd, err := unix.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer func() { _ = f.Close() }()
	n, err := io.CopyBuffer(onlyWriter{f}, r, u.buf)
	if err != nil {
		return err
	}
	u.result.Bytes += (n + blockSize - 1) / blockSize * blockSize
	if err := setAttributes(dir, base, h); err != nil {
		return err
	}
	return setTimes(dir, base, h.ModTime)
}

// onlyWriter keeps io.CopyBuffer from the ReadFrom of a file, which would not use the buffer.
type onlyWriter struct{ w io.Writer }

func (w onlyWriter) Write(p []byte) (int, error) { return w.w.Write(p) }

// link makes a hard link to a file of this layer, or to a copy of one of the layers below.
func (u *unpacker) link(dir int, base, target string) error {
	name := clean(target)
	if name == "" {
		return errors.New("a hard link to the root")
	}
	from, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	last := path.Base(name)
	var st unix.Stat_t
	err = unix.Fstatat(from.fd, last, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		if err = u.copyUp(from, last); err == nil {
			err = unix.Fstatat(from.fd, last, &st, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	if err != nil {
		return fmt.Errorf("a hard link to %q: %w", target, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return fmt.Errorf("a hard link to %q, which is no file", target)
	}
	return unix.Linkat(from.fd, last, dir, base, 0)
}
