package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keelson-io/keelson/internal/vfs"
)

// tmpDir holds what is being written.
const tmpDir = "tmp"

// dir is a Store in a directory.
type dir struct{ root string }

func openDir(path string) (*dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(abs); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", path)
	}
	return &dir{abs}, nil
}

// String is the directory.
func (d *dir) String() string { return d.root }

// Put is Store.
func (d *dir) Put(ctx context.Context, name string, r io.Reader, _ int64) (err error) {
	if err := checkName(name); err != nil {
		return err
	}
	tmp, final := filepath.Join(d.root, tmpDir), filepath.Join(d.root, filepath.FromSlash(name))
	made, err := d.makeDirs(tmp, filepath.Dir(final))
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(tmp, "put-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = io.Copy(f, &reader{ctx, r})
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), final); err != nil {
		return err
	}
	return errors.Join(made(), vfs.OS.SyncDir(filepath.Dir(final)))
}

// makeDirs makes directories. sync makes the names of new ones durable.
func (d *dir) makeDirs(dirs ...string) (sync func() error, err error) {
	var parents []string
	for _, path := range dirs {
		for p := path; ; p = filepath.Dir(p) {
			if _, err := os.Stat(p); err == nil || p == filepath.Dir(p) {
				break
			}
			parents = append(parents, filepath.Dir(p))
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, err
		}
	}
	return func() error {
		for _, p := range parents {
			if err := vfs.OS.SyncDir(p); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// Get is Store.
func (d *dir) Get(_ context.Context, name string) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return os.Open(filepath.Join(d.root, filepath.FromSlash(name)))
}

// List is Store.
func (d *dir) List(ctx context.Context, prefix string) ([]Object, error) {
	var out []Object
	err := filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // it was deleted meanwhile, or there is no archive yet
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(d.root, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		switch {
		case e.IsDir() && name == tmpDir:
			return filepath.SkipDir
		case !e.Type().IsRegular() || !strings.HasPrefix(name, prefix) || checkName(name) != nil:
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			out = append(out, Object{name, info.Size()})
		}
		return err
	})
	return out, err
}

// Delete is Store.
func (d *dir) Delete(_ context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	path := filepath.Join(d.root, filepath.FromSlash(name))
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for p := filepath.Dir(path); p != d.root; p = filepath.Dir(p) { // folders that are empty now
		if os.Remove(p) != nil {
			break
		}
	}
	return nil
}

// reader is a reader that fails once ctx ends.
type reader struct {
	ctx context.Context
	io.Reader
}

// Read is io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
