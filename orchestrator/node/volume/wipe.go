package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Wipe takes a directory of a node that is taken out of service away, with everything that is mounted below it. Loop devices whose files
// are below it end, too. It is no error if there is no such directory. If something stays mounted nothing is removed.
func Wipe(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	if err := unmountBelow(real); err != nil {
		return err
	}
	if err := Detach(real); err != nil {
		return err
	}
	return removeTree(real)
}

// Detach ends the loop devices of the files below a directory. The files stay.
func Detach(dir string) error {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(b), dir+"/") {
			continue // detached meanwhile, or somebody else's
		}
		if err := detachLoop("/dev/" + strings.Split(name, "/")[3]); err != nil {
			return fmt.Errorf("volume: loop device of %s: %w", strings.TrimSpace(string(b)), err)
		}
	}
	return nil
}

// PodUIDs are the names of pods that have a directory in one: of what the node knew before it was taken out of service.
func PodUIDs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("volume: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
