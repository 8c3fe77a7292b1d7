package images

import (
	"io/fs"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity tells which file it is, and whether it has several names.
func identity(info fs.FileInfo) (fileID, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), st.Ino}, st.Nlink > 1
}

// attributes are the extended attributes of a file that go into an image: capabilities and those of users.
func attributes(name string, info fs.FileInfo) (map[string]string, error) {
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil, nil
	}
	size, err := unix.Llistxattr(name, nil)
	if err != nil || size == 0 {
		return nil, nil //nolint:nilerr // the file system has none
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(name, list); err != nil {
		return nil, err
	}
	records := map[string]string{}
	for attr := range strings.SplitSeq(string(list[:size]), "\x00") {
		if attr != "security.capability" && !strings.HasPrefix(attr, "user.") {
			continue
		}
		value := make([]byte, 64<<10) // as long as one may be
		n, err := unix.Lgetxattr(name, attr, value)
		if err != nil {
			return nil, err
		}
		records["SCHILY.xattr."+attr] = string(value[:n])
	}
	return records, nil
}
