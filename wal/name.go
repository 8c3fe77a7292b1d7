package wal

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/keelson-io/keelson/internal/vfs"
)

const suffix = ".wal"

// segmentName is the name of a segment: its number and the first index that it may hold.
func segmentName(seq, index uint64) string { return fmt.Sprintf("%016x-%016x%s", seq, index, suffix) }

func parseName(name string) (seq, index uint64, ok bool) {
	if len(name) != 33+len(suffix) || !strings.HasSuffix(name, suffix) {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(name, "%016x-%016x.wal", &seq, &index)
	return seq, index, n == 2 && err == nil
}

// segments lists the names of the segments of a log, in order.
func segments(fs vfs.FS, dir string) ([]string, error) {
	all, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range all {
		if _, _, ok := parseName(n); ok {
			names = append(names, n)
		}
	}
	return names, nil
}

// Exist says whether there is a log in a directory.
func Exist(fs vfs.FS, dir string) bool {
	names, err := segments(fs, dir)
	return err == nil && len(names) > 0
}

// from returns the segments that hold everything after an index.
func from(dir string, names []string, index uint64) ([]string, error) {
	first := -1
	for i, n := range names {
		if _, at, _ := parseName(n); at <= index {
			first = i
		}
	}
	if first < 0 {
		return nil, &CorruptError{File: dir, Reason: fmt.Sprintf("no segment reaches back to index %d", index), Advice: adviceRejoin}
	}
	names = names[first:]
	start, _, _ := parseName(names[0])
	for i, n := range names {
		if seq, _, _ := parseName(n); seq != start+uint64(i) {
			return nil, &CorruptError{File: filepath.Join(dir, n), Reason: fmt.Sprintf("the segment before it, number %d, is missing", start+uint64(i)), Advice: adviceRejoin}
		}
	}
	return names, nil
}
