package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// file is one file of a volume.
type file struct {
	data []byte
	mode os.FileMode // permission bits
	user *int64      // owner, if not root
}

// payload is what a volume holds, by relative path.
type payload map[string]file

const (
	dataLink    = "..data"
	newDataLink = "..data_tmp"
	versionDir  = "..2006_01_02_15_04_05." // a format of time
)

// writer puts payloads into a directory, each as a whole.
type writer struct {
	dir   string
	group *int64 // owns the files, if it is set
	now   func() string
}

// write makes the directory hold p and nothing else. It says whether anything had to be changed.
func (w *writer) write(p payload) (changed bool, err error) {
	for path := range p {
		if err := checkPath(path); err != nil {
			return false, err
		}
	}
	link := filepath.Join(w.dir, dataLink)
	old, err := os.Readlink(link)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if old != "" && w.holds(filepath.Join(w.dir, old), p) {
		return false, w.tidy(p, old)
	}
	version, err := os.MkdirTemp(w.dir, w.now())
	if err != nil {
		return false, err
	}
	if err := w.fill(version, p); err != nil {
		_ = os.RemoveAll(version)
		return false, err
	}
	temp := filepath.Join(w.dir, newDataLink)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.Symlink(filepath.Base(version), temp); err != nil {
		_ = os.RemoveAll(version)
		return false, err
	}
	if err := os.Rename(temp, link); err != nil {
		_ = os.Remove(temp)
		_ = os.RemoveAll(version)
		return false, err
	}
	return true, w.tidy(p, filepath.Base(version))
}

// fill writes all files of a version, with their owners, before anybody sees it.
func (w *writer) fill(version string, p payload) error {
	if err := w.own(version, 0o755, nil); err != nil {
		return err
	}
	for path, f := range p {
		dir := version
		for _, part := range strings.Split(filepath.Dir(path), "/") {
			if part == "." {
				continue
			}
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if err := w.own(dir, 0o755, nil); err != nil {
				return err
			}
		}
		full := filepath.Join(version, path)
		if err := os.WriteFile(full, f.data, f.mode); err != nil {
			return err
		}
		if err := w.own(full, f.mode, f.user); err != nil {
			return err
		}
	}
	return nil
}

// own sets owner and mode, whatever the umask. The volume's group may read all of it.
func (w *writer) own(path string, mode os.FileMode, user *int64) error {
	uid, gid := -1, -1
	if user != nil {
		uid = int(*user)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if w.group != nil {
		gid = int(*w.group)
		mode |= 0o440
		if info.IsDir() {
			mode |= 0o110 | os.ModeSetgid
		}
	}
	if uid >= 0 || gid >= 0 {
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// holds says whether a version is the payload: the same files with the same content, modes and owners.
func (w *writer) holds(version string, p payload) bool {
	found := 0
	err := filepath.WalkDir(version, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(version, path)
		f, wanted := p[filepath.ToSlash(rel)]
		if !wanted {
			return errors.New("one too many")
		}
		found++
		return w.same(path, f)
	})
	return err == nil && found == len(p)
}

func (w *writer) same(path string, f file) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	mode, uid := f.mode, uint32(0)
	if w.group != nil {
		mode |= 0o440
	}
	if f.user != nil {
		uid = uint32(*f.user)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	switch {
	case !bytes.Equal(data, f.data), info.Mode() != mode, f.user != nil && st.Uid != uid, w.group != nil && st.Gid != uint32(*w.group):
		return errors.New("it differs")
	}
	return nil
}

// tidy makes the links that users see, and removes those of files that are gone and versions that an earlier call left.
func (w *writer) tidy(p payload, current string) error {
	want := map[string]bool{}
	for path := range p {
		top, _, _ := strings.Cut(path, "/")
		want[top] = true
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == dataLink, name == current:
		case strings.HasPrefix(name, ".."):
			if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
				return err
			}
		case want[name]:
			delete(want, name)
		case e.Type() == fs.ModeSymlink: // directories are those of subPaths that were not there
			if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
				return err
			}
		}
	}
	for name := range want {
		if err := os.Symlink(dataLink+"/"+name, filepath.Join(w.dir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// checkPath takes relative paths within the volume that do not look like ours.
func checkPath(path string) error {
	parts := strings.Split(path, "/")
	switch {
	case path == "":
		return errors.New("invalid path: must not be empty")
	case filepath.IsAbs(path):
		return fmt.Errorf("invalid path: must be relative path: %s", path)
	case len(path) > 4096:
		return errors.New("invalid path: must be less than or equal to 4096 characters")
	case slices.Contains(parts, ".."):
		return fmt.Errorf("invalid path: must not contain '..': %s", path)
	case strings.HasPrefix(path, ".."):
		return fmt.Errorf("invalid path: must not start with '..': %s", path)
	case slices.ContainsFunc(parts, func(s string) bool { return len(s) > 255 }):
		return errors.New("invalid path: filenames must be less than or equal to 255 characters")
	case filepath.Clean(path) != path || path == ".":
		return fmt.Errorf("invalid path: must be clean: %s", path)
	}
	return nil
}
