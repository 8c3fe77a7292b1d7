package logs

import (
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	// stampFormat is the time in the name of a rotated file.
	stampFormat = "20060102-150405"
	zipped      = ".gz"
	unfinished  = ".tmp"
)

// stampPattern is what stampFormat makes.
var stampPattern = regexp.MustCompile(`\A\d{8}-\d{6}\z`)

// rotated is a file that is no longer written to.
type rotated struct {
	path  string // without zipped
	stamp string
}

// history lists the rotated files of a log, oldest first. A file of which there are both forms is listed once.
func history(path string) ([]rotated, error) {
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var out []rotated
	prefix := filepath.Base(path) + "."
	for _, n := range names {
		stamp, ours := strings.CutPrefix(n.Name(), prefix)
		stamp = strings.TrimSuffix(stamp, zipped)
		if !ours || !stampPattern.MatchString(stamp) {
			continue
		}
		out = append(out, rotated{path + "." + stamp, stamp})
	}
	slices.SortFunc(out, func(a, b rotated) int { return cmp.Compare(a.stamp, b.stamp) })
	return slices.Compact(out), nil
}

// Remove removes a log with all that was rotated. What is not there is no error.
func Remove(path string) error {
	names, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	var errs []error
	for _, n := range names {
		if n.Name() == filepath.Base(path) || strings.HasPrefix(n.Name(), filepath.Base(path)+".") {
			if err := os.Remove(filepath.Join(filepath.Dir(path), n.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("logs: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// open opens a rotated file, compressed or not. It may be compressed at any moment.
func (r rotated) open() (io.ReadCloser, error) {
	for range 2 {
		f, err := os.Open(r.path)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if f, err = os.Open(r.path + zipped); err == nil {
			z, err := gzip.NewReader(f)
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return &unzipped{z, f}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fs.ErrNotExist
}

type unzipped struct {
	*gzip.Reader
	file *os.File
}

func (u *unzipped) Close() error { return errors.Join(u.Reader.Close(), u.file.Close()) }

// is says whether this is what an open file became.
func (r rotated) is(open *os.File) bool {
	if info, err := os.Stat(r.path); err == nil {
		mine, err := open.Stat()
		return err == nil && os.SameFile(info, mine)
	}
	z, err := r.open()
	if err != nil {
		return false
	}
	defer func() { _ = z.Close() }() // it was only read
	// Two files that begin with the same line, to the nanosecond of its time, are the same.
	a, b := make([]byte, headSize), make([]byte, headSize)
	n, _ := io.ReadFull(z, a)
	m, _ := open.ReadAt(b, 0)
	return n > 0 && n == m && string(a[:n]) == string(b[:m])
}

// headSize is how much of two files is compared, in bytes.
const headSize = 256
