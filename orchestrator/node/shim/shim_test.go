//go:build linux && cgo

package shim_test

import (
	"errors"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

func TestExitCodes(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	for _, tc := range []struct {
		name   string
		args   []string
		code   int
		reason string
	}{
		{"ok", []string{"exit", "0"}, 0, "Completed"},
		{"failed", []string{"exit", "3"}, 3, "Error"},
		{"segv", []string{"kill", "9"}, 137, "Error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p.run(p.bundle(tc.name, tc.args, nil))
			if tc.name == "segv" { // pid 1 does not hear its own signals
				if err := p.Signal(ctx(t), tc.name, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			s := p.stopped(tc.name)
			if s.ExitCode != tc.code || s.Reason != tc.reason || s.Pid != 0 || s.OOMKilled {
				t.Errorf("%+v", s)
			}
			if s.CreatedAt.IsZero() || s.StartedAt.Before(s.CreatedAt) || s.FinishedAt.Before(s.StartedAt) {
				t.Errorf("times of %+v", s)
			}
		})
	}
	if err := p.Signal(ctx(t), "ok", syscall.SIGTERM); !errors.Is(err, shim.ErrState) {
		t.Errorf("signal to one that has stopped: %v", err)
	}
	if err := p.Delete(ctx(t), "ok"); err != nil {
		t.Error(err)
	}
	if _, err := p.State(ctx(t), "ok"); !errors.Is(err, shim.ErrNotFound) {
		t.Errorf("state of one that was deleted: %v", err)
	}
}

func TestExec(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.run(p.bundle("c", []string{"sleep"}, nil))
	if code, out, _ := p.exec("c", "echo", "hello"); code != 0 || out != "hello\n" {
		t.Errorf("exit %d, %q", code, out)
	}
	if code, _, _ := p.exec("c", "exit", "7"); code != 7 {
		t.Errorf("exit %d", code)
	}
	if code, _, _ := p.exec("c", "kill", "15"); code != 128+15 {
		t.Errorf("exit %d", code)
	}
	code, out, errs := p.exec("c", "both", "1000")
	if code != 0 || len(out) != 7890 || len(errs) != 7890 {
		t.Errorf("exit %d, %d and %d bytes", code, len(out), len(errs))
	}
}
