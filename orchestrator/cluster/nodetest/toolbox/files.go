//go:build linux

package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func fileTools() map[string]func([]string) error {
	return map[string]func([]string) error{
		"cat":    cat,
		"ls":     ls,
		"stat":   each(stat),
		"mkdir":  each(func(p string) error { return os.MkdirAll(p, 0o777) }),
		"rm":     each(os.RemoveAll),
		"touch":  each(touch),
		"chmod":  chmod,
		"mounts": mounts,
		"tar":    archive,
		"grep":   grep,
		"wc":     count,
		"sync":   func([]string) error { unix.Sync(); return nil },
	}
}

func each(f func(string) error) func([]string) error {
	return func(args []string) error {
		for _, a := range args {
			if strings.HasPrefix(a, "-") {
				continue // such as -p, which is the default
			}
			if err := f(a); err != nil {
				return err
			}
		}
		return nil
	}
}

func cat(args []string) error {
	if len(args) == 0 {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	for _, a := range args {
		f, err := os.Open(a)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, f)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// ls prints what stat prints about everything in directories, by name.
func ls(args []string) error {
	if len(args) == 0 {
		args = []string{"."}
	}
	for _, dir := range args {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, unix.ENOTDIR) {
			if err := stat(dir); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := describe(filepath.Join(dir, e.Name()), e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func stat(path string) error { return describe(path, path) }

// describe prints mode, owner, group, size and name of a file as "-rw-r--r-- 0 0 12 name", and where a link leads.
func describe(path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
		target = " -> " + target
	}
	fmt.Printf("%s %04o %d %d %d %s%s\n", info.Mode(), st.Mode&0o7777, st.Uid, st.Gid, info.Size(), name, target)
	return nil
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	return f.Close()
}

func chmod(args []string) error {
	if len(args) < 2 {
		return errors.New("want a mode and files")
	}
	mode, err := strconv.ParseUint(args[0], 8, 32)
	if err != nil {
		return err
	}
	return each(func(p string) error { return unix.Chmod(p, uint32(mode)) })(args[1:])
}

// mounts prints the mounts at given paths, or all: type, path, options.
func mounts(args []string) error {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		part := strings.Fields(lines.Text())
		if len(args) == 0 || part[1] == args[0] {
			fmt.Println(part[2], part[1], part[3])
		}
	}
	return nil
}

// grep prints the lines that contain a text. As for grep, it is a failure if there are none.
func grep(args []string) error {
	quiet := len(args) > 0 && args[0] == "-q"
	if quiet {
		args = args[1:]
	}
	if len(args) == 0 {
		return errors.New("want a text and files")
	}
	var in io.Reader = os.Stdin
	for _, path := range args[1:] {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	found := false
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if !strings.Contains(lines.Text(), args[0]) {
			continue
		}
		found = true
		if !quiet {
			fmt.Println(lines.Text())
		}
	}
	if !found {
		return status(1)
	}
	return nil
}

// count is wc: it prints the number of bytes.
func count([]string) error {
	n, err := io.Copy(io.Discard, os.Stdin)
	fmt.Println(n)
	return err
}

// archive is as much of tar as kubectl cp needs: cf - PATH..., and x from the standard input, with -C.
func archive(args []string) error {
	dir, make := ".", false
	var paths []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-C" && i+1 < len(args):
			i++
			dir = args[i]
		case a == "-" || strings.HasPrefix(a, "--"):
		case i == 0 || strings.HasPrefix(a, "-"):
			make = make || strings.Contains(a, "c")
		default:
			paths = append(paths, a)
		}
	}
	if make {
		return pack(dir, paths)
	}
	return unpack(dir)
}

func pack(dir string, paths []string) error {
	w := tar.NewWriter(os.Stdout)
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return add(w, p, d)
		})
		if err != nil {
			return err
		}
	}
	return w.Close()
}

func add(w *tar.Writer, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = strings.TrimPrefix(path, "/")
	if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func unpack(dir string) error {
	r := tar.NewReader(os.Stdin)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		path, mode := filepath.Join(dir, h.Name), h.FileInfo().Mode().Perm()
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, mode)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		case tar.TypeReg:
			err = extract(r, path, mode)
		}
		if err != nil {
			return err
		}
	}
}

func extract(r io.Reader, path string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
