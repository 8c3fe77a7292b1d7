//go:build linux && cgo

package runtime_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite"
)

// TestSuite runs the suite of container runtimes on this one.
func TestSuite(t *testing.T) {
	testkit.Root(t)
	registry := crisuite.Registry(t)
	n := newNode(t)
	crisuite.Run(t, crisuite.Target{Endpoint: "unix://" + n.cfg.Socket, Registry: registry, Handler: "other", CDIDir: n.cfg.CDIDirs[0], UserNS: true, Complete: true})
}

// BenchmarkSuite starts pods as BenchmarkContainerd of crisuite does, with the shim that `make build` has built: the tests' own program
// is several times larger, and each container begins with a copy of it.
func BenchmarkSuite(b *testing.B) {
	testkit.Root(b)
	program, err := filepath.Abs("../shim/program/keelson-shim")
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		b.Skip(err)
	}
	registry := crisuite.Registry(b)
	n := newNode(b)
	n.stop()
	n.cfg.ShimCommand = []string{program}
	n.open()
	crisuite.Bench(b, crisuite.Target{Endpoint: "unix://" + n.cfg.Socket, Registry: registry})
}
