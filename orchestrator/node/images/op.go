package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// opSuffix ends the names of the files that operations hold.
const opSuffix = ".op"

// op is an operation that needs blobs and layers which no image refers to yet. While it runs it holds a locked file that
// names them, so that a collection in this or another process spares them. When its process dies the lock is gone, and with
// it the claim.
type op struct {
	s    *Store
	id   string
	file *os.File
}

// begin starts an operation. end must be called.
func (s *Store) begin() (*op, error) {
	o := &op{s: s, id: uuid.NewString()}
	err := s.locked(func() (err error) {
		o.file, err = flock(o.path(), unix.LOCK_EX|unix.LOCK_NB)
		return err
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

func (o *op) path() string { return filepath.Join(o.s.dir, tmpDir, o.id+opSuffix) }

// claim names blobs by digest, and layers by key, that are not to be removed. Only what is looked for after the claim is
// sure to stay.
func (o *op) claim(what ...string) error {
	return o.s.locked(func() error {
		if _, err := o.file.WriteString(strings.Join(what, "\n") + "\n"); err != nil {
			return fmt.Errorf("images: %w", err)
		}
		return nil
	})
}

// dir is a directory of the operation's own, which goes with it.
func (o *op) dir() (string, error) {
	dir := filepath.Join(o.s.dir, tmpDir, o.id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("images: %w", err)
	}
	return dir, nil
}

// end gives up the claims and removes the directory.
func (o *op) end() {
	_ = os.RemoveAll(filepath.Join(o.s.dir, tmpDir, o.id))
	_ = os.Remove(o.path())
	_ = o.file.Close()
}

// claims returns what running operations have claimed. The caller holds the store's lock.
func (s *Store) claims() (map[string]bool, error) {
	all := map[string]bool{}
	entries, err := os.ReadDir(filepath.Join(s.dir, tmpDir))
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), opSuffix) {
			continue
		}
		path := filepath.Join(s.dir, tmpDir, e.Name())
		if f, err := flock(path, unix.LOCK_EX|unix.LOCK_NB); err == nil { // its owner is gone
			_ = os.Remove(path)
			_ = f.Close()
			continue
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			all[strings.TrimSpace(line)] = true
		}
	}
	return all, nil
}

// leftovers lists the directories of operations that are over. The caller holds the store's lock.
func (s *Store) leftovers() (rubbish []string) {
	_, _ = s.claims() // removes the files of those whose process is gone
	entries, _ := os.ReadDir(filepath.Join(s.dir, tmpDir))
	for _, e := range entries {
		path := filepath.Join(s.dir, tmpDir, e.Name())
		if strings.HasSuffix(e.Name(), opSuffix) {
			continue
		}
		if _, err := os.Stat(path + opSuffix); errors.Is(err, os.ErrNotExist) {
			rubbish = append(rubbish, path)
		}
	}
	return rubbish
}

// discard removes what was moved out of the way.
func (s *Store) discard(paths []string) {
	for _, p := range paths {
		_ = os.RemoveAll(p)
	}
}

// setAside moves something to where it is no longer found, and where it goes with the next start if not sooner. The caller
// holds the store's lock.
func (s *Store) setAside(path string) (string, error) {
	to := filepath.Join(s.dir, tmpDir, "gone-"+uuid.NewString())
	if err := os.Rename(path, to); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return to, nil
		}
		return "", fmt.Errorf("images: %w", err)
	}
	return to, nil
}
