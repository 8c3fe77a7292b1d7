package images

import (
	"io/fs"
	"path/filepath"
	"syscall"
)

// diskUsage adds up what a directory takes on the disk. Files that vanish meanwhile do not count.
func diskUsage(dir string) (bytes, inodes int64, err error) {
	linked := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // gone
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		bytes += st.Blocks * 512
		inodes++
		return nil
	})
	return bytes, inodes, err
}
