package program

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	command, err := Install(dir)
	switch {
	case Embedded():
		if err != nil || len(command) != 1 || filepath.Dir(command[0]) != dir {
			t.Errorf("%v %v", command, err)
		}
	case shim.Available() != nil:
		if !errors.Is(err, shim.ErrUnavailable) {
			t.Errorf("%v %v", command, err)
		}
	case err != nil || !slices.Equal(command, []string{"/proc/self/exe"}):
		t.Errorf("%v %v", command, err)
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	first, err := write(dir, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first)
	if err != nil || before.Mode().Perm() != 0o755 {
		t.Fatalf("%v %v", before, err)
	}
	// The same again, from many sides: nothing is written anew.
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if path, err := write(dir, []byte("one")); err != nil || path != first {
				t.Errorf("%s %v", path, err)
			}
		})
	}
	all.Wait()
	if after, err := os.Stat(first); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was replaced: %v", err)
	}
	second, err := write(dir, []byte("two"))
	if err != nil || second == first {
		t.Errorf("%s %v", second, err)
	}
	// What is not what it should be is replaced, even while it runs.
	if err := os.WriteFile(first, []byte("torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := write(dir, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(first); err != nil || string(data) != "one" {
		t.Errorf("%q %v", data, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v %v", entries, err)
	}
}
