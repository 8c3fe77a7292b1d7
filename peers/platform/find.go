package platform

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// ErrMissing is that a program was not built.
var ErrMissing = errors.New("missing")

// Find returns the path of a program below bin/, which a target of the Makefile builds.
func Find(name, how string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for { // up to the root of the repository: the modules of the peers lie below it
		if _, err := os.Stat(filepath.Join(dir, "Makefile")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("platform: outside of the repository")
		}
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(dir, "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("platform: %s is %w: run %s", path, ErrMissing, how)
	}
	return path, nil
}

// Main is the body of a TestMain: it starts a platform that all tests of the package use, hands it over, runs the tests,
// stops the platform, and returns the status to exit with. Without a binary there is nothing to test, which is an error only
// if KEELSON_REQUIRE_BINARIES is set.
func Main(m *testing.M, o Options, use func(*Platform)) int {
	p, err := start(&o)
	switch {
	case errors.Is(err, ErrMissing) && os.Getenv("KEELSON_REQUIRE_BINARIES") == "":
		fmt.Println("skipped:", err)
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	use(p)
	code := m.Run()
	if err := p.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code == 0 { // otherwise the log tells why
		_ = os.RemoveAll(o.Dir)
	} else {
		fmt.Fprintln(os.Stderr, "the platform's log:", p.Log)
	}
	return code
}

func start(o *Options) (*Platform, error) {
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "keelson-platform-")
		if err != nil {
			return nil, err
		}
		o.Dir = dir
	}
	return Start(*o)
}
