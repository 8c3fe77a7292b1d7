//go:build linux && cgo

package keeper

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
)

// TestMain eats memory when it is told to.
func TestMain(m *testing.M) {
	if os.Getenv("KEEPER_TEST_EAT") != "" {
		_, _ = fmt.Scanln() // until it is in its cgroup
		var held [][]byte
		for range 200 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			held = append(held, b)
		}
		os.Exit(len(held))
	}
	os.Exit(m.Run())
}

// TestOOMWatch sees a kill without the counter.
func TestOOMWatch(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, "shimoomtest")
	limits := &cgroups.Resources{Memory: 20 << 20, SkipDevices: true}
	m, err := manager.New(&cgroups.Cgroup{Path: "/shimoomtest", Resources: limits})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "KEEPER_TEST_EAT=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := ledger.KillAll(ctx, m); err != nil {
			t.Error(err)
		}
		if err := m.Destroy(); err != nil {
			t.Error(err)
		}
	})
	if err := m.Apply(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := m.Set(limits); err != nil {
		t.Fatal(err)
	}
	w, err := watchOOM(m)
	if err != nil || w == nil {
		t.Fatal(err)
	}
	if w.seen.Load() {
		t.Error("it was seen before it happened")
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("it was not killed: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); !w.seen.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the kill was not seen")
		}
	}
	if !w.happened(m) {
		t.Error("it did not happen")
	}
}
