package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
)

// roleEnv makes a program that calls Reexec a shim: its value is the configuration.
const roleEnv = "KEELSON_SHIM"

// role is what Start tells the process.
type role struct {
	Dir         string
	Cgroup      string
	OOMScoreAdj int
}

// readyFD is the descriptor on which the process tells that it serves.
const readyFD = 3

// Start spawns a shim for a folder and returns when it answers. The process is no part of the caller's session and outlives it.
// The error Is ErrExists if the folder has one that lives; what a dead one left in it must have been removed by Clean.
func Start(ctx context.Context, cfg Config) (*Client, error) {
	command := cfg.Command
	if len(command) == 0 {
		if err := Available(); err != nil {
			return nil, err
		}
		command = []string{"/proc/self/exe"}
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("shim: %w", err)
	}
	switch l, err := ledger.Read(dir); {
	case err == nil && l.Shim.Alive():
		return nil, fmt.Errorf("%w: a shim lives in %s", ErrExists, dir)
	case err == nil:
		return nil, fmt.Errorf("%w: what the last one left in %s is not cleaned", ErrExists, dir)
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("shim: %w", err)
	}
	config, err := json.Marshal(role{dir, cfg.Cgroup, cfg.OOMScoreAdj})
	if err != nil {
		return nil, fmt.Errorf("shim: %w", err)
	}
	process, ready, err := spawn(dir, command, string(config))
	if err != nil {
		return nil, fmt.Errorf("shim: start %s: %w", command[0], err)
	}
	if err := awaitReady(ctx, ready); err != nil {
		_ = process.Kill()
		_ = reap(process)
		return nil, fmt.Errorf("shim: start in %s: %w", dir, errors.Join(err, Clean(dir)))
	}
	go func() { _ = reap(process) }()
	return &Client{dir: dir, pid: process.Pid}, nil
}

// spawn starts the process, away from our session and our streams.
func spawn(dir string, command []string, config string) (_ *os.Process, ready *os.File, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = null.Close() }()
	out, err := os.OpenFile(filepath.Join(dir, ledger.LogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = out.Close() }()
	ready, tell, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = tell.Close() }()
	process, err := os.StartProcess(command[0], command, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{roleEnv + "=" + config, "GOMAXPROCS=2", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []*os.File{null, out, out, tell},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		_ = ready.Close()
		return nil, nil, err
	}
	return process, ready, nil
}

// awaitReady reads what the process says once it serves, or why it does not.
func awaitReady(ctx context.Context, ready *os.File) error {
	defer func() { _ = ready.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = ready.Close() })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(ready, 16<<10)).ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case line == "ok":
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case line != "":
		return errors.New(line)
	case errors.Is(err, io.EOF):
		return errors.New("it ended without a word: does its program call shim.Reexec?")
	}
	return err
}

// reap waits for a child in the poller, which takes no thread, and lets the kernel forget it.
func reap(p *os.Process) error {
	_ = ledger.Wait(context.Background(), p.Pid)
	_, err := p.Wait()
	return err
}
