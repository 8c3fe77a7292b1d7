//go:build linux

package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

func TestReadWrite(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("where none is: %v", err)
	}
	want := &Ledger{Shim: Process{1, 2}, Cgroup: "/a", Mounts: []string{"/m"}, Containers: []Container{{State: wire.State{ID: "c", ExitCode: 3}}}}
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil {
		t.Error("half a ledger was read")
	}
	if err := Clean(dir); err == nil {
		t.Error("a ledger that cannot be read was cleaned")
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Find(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Fatalf("%+v %v", p, err)
	}
	other := Process{p.Pid, p.Start + 1} // had the pid before
	if other.Alive() {
		t.Error("another process is taken for it")
	}
	if err := other.Kill(context.Background()); err != nil || !p.Alive() {
		t.Errorf("another one was killed: %v", err)
	}
	if err := p.Kill(context.Background()); err != nil {
		t.Error(err)
	}
	if p.Alive() { // it waits to be reaped
		t.Error("it lives")
	}
	if err := p.Kill(context.Background()); err != nil {
		t.Errorf("killed again: %v", err)
	}
	_ = cmd.Wait()
	if err := Wait(context.Background(), p.Pid); err != nil {
		t.Errorf("wait for one that is gone: %v", err)
	}
	self, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Wait(self, os.Getpid()); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with a context that has ended: %v", err)
	}
	if (Process{}).Alive() {
		t.Error("no process lives")
	}
}

// TestCleanUnnamed: a shim that is killed as it forks leaves children in its cgroup that its ledger does not name.
func TestCleanUnnamed(t *testing.T) {
	testkit.Root(t)
	dir, path := t.TempDir(), fmt.Sprintf("/ledgertest%d", os.Getpid())
	m, err := Own(path)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	t.Cleanup(func() {
		_ = child.Process.Kill()
		<-ended
		_ = m.Destroy()
	})
	if err := m.Apply(child.Process.Pid); err != nil {
		t.Fatal(err)
	}
	l := &Ledger{Cgroup: path}
	if err := l.Write(dir); err != nil {
		t.Fatal(err)
	}
	if err := Clean(dir); err != nil {
		t.Fatal(err)
	}
	if m.Exists() {
		t.Error("the cgroup is left")
	}
}

func TestSocketPath(t *testing.T) {
	for _, n := range []int{1, 200} {
		dir := filepath.Join(t.TempDir(), strings.Repeat("x", n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path, done, err := SocketPath(dir)
		if err != nil || len(path) >= 100 {
			t.Errorf("%q %v", path, err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Error(err)
		}
		done()
		if _, err := os.Stat(filepath.Join(dir, SocketName)); err != nil {
			t.Error(err)
		}
		if err := Clean(dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
}
