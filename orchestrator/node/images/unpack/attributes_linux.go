package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const paxXattr = "SCHILY.xattr."

// setAttributes gives a name, or with an empty one the directory itself, owner, mode and extended attributes of an entry, in
// the order in which none undoes another.
func setAttributes(dir int, name string, h *tar.Header) error {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
		return fmt.Errorf("an owner of %d:%d", h.Uid, h.Gid)
	}
	link := h.Typeflag == tar.TypeSymlink
	if err := setOwner(dir, name, h.Uid, h.Gid, uint32(h.Mode)&0o7777, link); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !allowed(attr) {
			continue
		}
		err := setXattr(dir, name, attr, []byte(value))
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			continue // the file system has none, or only files and directories have this one
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", attr, err)
		}
	}
	return nil
}

// allowed tells which extended attributes an image may set.
func allowed(attr string) bool {
	switch {
	case strings.HasPrefix(attr, "user.overlay."):
		return false
	case strings.HasPrefix(attr, "user."), attr == "security.capability", strings.HasPrefix(attr, "system.posix_acl_"):
		return true
	}
	return false
}

func setOwner(dir int, name string, uid, gid int, mode uint32, link bool) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if err := unix.Fchownat(dir, name, uid, gid, flags); err != nil {
		return err
	}
	switch {
	case link:
		return nil
	case name == "":
		return unix.Fchmod(dir, mode)
	}
	return unix.Fchmodat(dir, name, mode, 0) // it was made by us and is no link
}

func setTimes(dir int, name string, mod time.Time) error {
	ts, err := unix.TimeToTimespec(mod)
	if err != nil {
		return err
	}
	if name == "" {
		return unix.UtimesNanoAt(unix.AT_FDCWD, within(dir, ""), []unix.Timespec{ts, ts}, 0)
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func setXattr(dir int, name, attr string, value []byte) error {
	if name == "" {
		return unix.Fsetxattr(dir, attr, value, 0)
	}
	return unix.Lsetxattr(within(dir, name), attr, value, 0)
}

// copyAttributes gives a name the owner, mode and extended attributes that another one of a lower layer has.
func copyAttributes(dir int, base string, st *unix.Stat_t, to int, name string) error {
	if err := setOwner(to, name, int(st.Uid), int(st.Gid), st.Mode&0o7777, st.Mode&unix.S_IFMT == unix.S_IFLNK); err != nil {
		return err
	}
	from := within(dir, base)
	size, err := unix.Llistxattr(from, nil)
	if err != nil || size == 0 {
		return nil // none, or none on this file system
	}
	list := make([]byte, size)
	n, err := unix.Llistxattr(from, list)
	if err != nil {
		return err
	}
	for attr := range bytes.SplitSeq(list[:n], []byte{0}) {
		if len(attr) == 0 || !allowed(string(attr)) {
			continue
		}
		value := make([]byte, 64<<10) // as long as one may be
		n, err := unix.Lgetxattr(from, string(attr), value)
		if err != nil {
			return err
		}
		if err := setXattr(to, name, string(attr), value[:n]); err != nil {
			return err
		}
	}
	return nil
}
