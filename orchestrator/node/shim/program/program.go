// Package program puts the shim's program where it can be run.
//
// The main binary is large, and one that runs for every pod should not be: `make build` builds the program keelson-shim, and
// embeds it into the main binary with the build tag embedshim. A binary without it is its own shim, which is slower to start
// and takes more memory, and is otherwise the same.
//
// # Concurrency
//
// Install may be called by several processes at once with one folder.
package program

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// Install writes the program into a folder, which must not be mounted noexec, and returns what goes into Config.Command of the
// shim. The file is named after its content, so that shims of another version go on with theirs. The error Is ErrUnavailable
// if this build can have no shim.
func Install(dir string) (command []string, err error) {
	if len(embedded) == 0 {
		if err := shim.Available(); err != nil {
			return nil, err
		}
		return []string{"/proc/self/exe"}, nil
	}
	path, err := write(dir, embedded)
	if err != nil {
		return nil, fmt.Errorf("program: %w", err)
	}
	return []string{path}, nil
}

// Embedded tells whether this binary holds the program.
func Embedded() bool { return len(embedded) > 0 }

// write puts content under a name of its own, unless it is there.
func write(dir string, content []byte) (path string, err error) {
	sum := sha256.Sum256(content)
	path = filepath.Join(dir, "keelson-shim-"+hex.EncodeToString(sum[:8]))
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, content) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file, err := os.CreateTemp(dir, ".keelson-shim-")
	if err != nil {
		return "", err
	}
	defer func() {
		_ = file.Close()
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	if _, err := file.Write(content); err != nil {
		return "", err
	}
	if err := file.Chmod(0o755); err != nil {
		return "", err
	}
	if err := file.Sync(); err != nil {
		return "", err
	}
	if err := file.Close(); err != nil {
		return "", err
	}
	return path, os.Rename(file.Name(), path)
}
