package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newWriter(dir string) *writer {
	return &writer{dir: dir, now: func() string { return time.Now().UTC().Format(versionDir) }}
}

func files(pairs ...string) payload {
	p := payload{}
	for i := 0; i < len(pairs); i += 2 {
		p[pairs[i]] = file{data: []byte(pairs[i+1]), mode: 0o644}
	}
	return p
}

func TestWriter(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(dir)
	for i, c := range []struct {
		p       payload
		changed bool
		want    string
	}{
		{files("a", "1", "d/e/b", "2", "d/c", "3"), true, "a -rw-r--r-- 1\nd/c -rw-r--r-- 3\nd/e/b -rw-r--r-- 2"},
		{files("a", "1", "d/e/b", "2", "d/c", "3"), false, "a -rw-r--r-- 1\nd/c -rw-r--r-- 3\nd/e/b -rw-r--r-- 2"},
		{files("a", "9", "d/c", "3"), true, "a -rw-r--r-- 9\nd/c -rw-r--r-- 3"},
		{payload{"a": {data: []byte("9"), mode: 0o600}, "d/c": {data: []byte("3"), mode: 0o644}}, true, "a -rw------- 9\nd/c -rw-r--r-- 3"},
		{files("d", "a file now"), true, "d -rw-r--r-- a file now"},
		{files(), true, ""},
		{files(), false, ""},
		{files("..x/y", "", "a", ""), false, ""},
	} {
		changed, err := w.write(c.p)
		if i == 7 {
			if err == nil {
				t.Error("a path that looks like ours: want an error")
			}
			continue
		}
		if err != nil || changed != c.changed {
			t.Errorf("%d: changed %t, %v", i, changed, err)
		}
		if got := listing(t, dir); got != c.want {
			t.Errorf("%d: got %q, want %q", i, got, c.want)
		}
		entries, _ := os.ReadDir(dir)
		hidden := 0
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..") {
				hidden++
			}
		}
		if hidden != 2 {
			t.Errorf("%d: %d hidden entries, want ..data and one version", i, hidden)
		}
	}
}

// TestWriterGoesOnAfterACrash finds a directory as a writer that was killed left it.
func TestWriterGoesOnAfterACrash(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(dir)
	if _, err := w.write(files("a", "1")); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "..2020_01_01_00_00_00.1"), 0o755),
		os.WriteFile(filepath.Join(dir, "..2020_01_01_00_00_00.1", "half"), nil, 0o644),
		os.Symlink("..2020_01_01_00_00_00.1", filepath.Join(dir, newDataLink)),
		os.Remove(filepath.Join(dir, "a")),
		os.Symlink("..data/gone", filepath.Join(dir, "gone")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []payload{files("a", "1"), files("a", "2", "b", "3")} {
		if _, err := w.write(p); err != nil {
			t.Fatal(err)
		}
	}
	if got := listing(t, dir); got != "a -rw-r--r-- 2\nb -rw-r--r-- 3" {
		t.Errorf("got %q", got)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 4 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestReadersSeeNoMixture reads two files, again and again, of one version that it opens, while others are written.
func TestReadersSeeNoMixture(t *testing.T) {
	dir := t.TempDir()
	w := newWriter(dir)
	write := func(n int) {
		if _, err := w.write(files("x", fmt.Sprint(n), "d/y", fmt.Sprint(n))); err != nil {
			t.Error(err)
		}
	}
	write(0)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var read atomic.Int64
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				version, err := os.OpenRoot(filepath.Join(dir, dataLink))
				if errors.Is(err, fs.ErrNotExist) {
					continue // the one that the link led to was removed meanwhile
				}
				if err != nil {
					t.Errorf("there is no version: %v", err)
					return
				}
				x, errX := version.ReadFile("x")
				y, errY := version.ReadFile("d/y")
				_ = version.Close()
				if errors.Is(errX, fs.ErrNotExist) || errors.Is(errY, fs.ErrNotExist) {
					continue // an old version that was removed meanwhile
				}
				if errX != nil || errY != nil || string(x) != string(y) {
					t.Errorf("a mixture: %q, %q, %v, %v", x, y, errX, errY)
					return
				}
				read.Add(1)
			}
		})
	}
	for n := 1; n <= 300 || read.Load() < 50; n++ {
		write(n)
		if t.Failed() {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
}

func TestPaths(t *testing.T) {
	for path, ok := range map[string]bool{
		"a": true, "a/b": true, "a..b": true, ".a": true, "": false, "/a": false, "..": false, "../a": false, "a/../b": false, "..a": false, "a/..": false, "a//b": false, ".": false, "./a": false,
		strings.Repeat("x", 256): false, strings.Repeat("x/", 2100) + "x": false,
	} {
		if err := checkPath(path); (err == nil) != ok {
			t.Errorf("%.20q: %v", path, err)
		}
	}
}
