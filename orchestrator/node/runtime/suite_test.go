//go:build linux && cgo

package runtime_test

import (
	"testing"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite"
)

// TestSuite runs the suite of container runtimes on this one.
func TestSuite(t *testing.T) {
	testkit.Root(t)
	registry := crisuite.Registry(t)
	n := newNode(t)
	crisuite.Run(t, crisuite.Target{Endpoint: "unix://" + n.cfg.Socket, Registry: registry, Handler: "other", UserNS: true, Complete: true})
}
