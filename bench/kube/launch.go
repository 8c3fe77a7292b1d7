package kube

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process is a `keelson up` that was started to be measured.
type Process struct {
	Kubeconfig string
	Pid        int
	// Ready is how long it took from the start of the program until it said that it was ready.
	Ready time.Duration

	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
	err  error         // how, after done
}

const (
	startLimit = 5 * time.Minute // thousands of nodes take a while to be registered
	stopLimit  = 20 * time.Second
)

// Launch starts a program that does what `keelson up` does with the flags --data-dir, --secure-port and --kubeconfig, and that
// prints a line with "ready: " when it is ready. Its data and its log are in dir.
func Launch(ctx context.Context, dir, program string, args ...string) (*Process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "up.log"))
	if err != nil {
		return nil, err
	}
	p := &Process{Kubeconfig: filepath.Join(dir, "kubeconfig"), log: log, done: make(chan struct{})}
	args = append(args[:len(args):len(args)], "--data-dir="+filepath.Join(dir, "data"), "--secure-port=0", "--kubeconfig="+p.Kubeconfig)
	p.cmd = exec.Command(program, args...)
	p.cmd.Stderr, p.cmd.Env = log, os.Environ()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C at the terminal is for us alone: we stop it
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	begun := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("kube: starting %s: %w", program, err), log.Close())
	}
	p.Pid = p.cmd.Process.Pid
	ready := make(chan time.Duration, 1)
	go func() {
		p.follow(out, func() { ready <- time.Since(begun) })
		p.err = errors.Join(p.cmd.Wait(), log.Close())
		close(p.done)
	}()
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case p.Ready = <-ready:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("kube: %s has ended, see %s: %w", program, log.Name(), errors.Join(p.err, errEnded))
	case <-limit.C:
		err = fmt.Errorf("kube: %s is not ready after %s, see %s", program, startLimit, log.Name())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, p.Stop())
}

var errEnded = errors.New("it was not ready yet")

// follow logs what the program prints, and calls ready at the line that says so.
func (p *Process) follow(out io.Reader, ready func()) {
	s := bufio.NewScanner(out)
	for told := false; s.Scan(); {
		fmt.Fprintln(p.log, s.Text())
		if !told && strings.Contains(s.Text(), "ready: ") {
			told = true
			ready()
		}
	}
}

// Stop ends the program, and returns when it has ended.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
		return nil
	case <-time.After(stopLimit):
		err := p.cmd.Process.Kill()
		<-p.done
		return errors.Join(fmt.Errorf("kube: process %d did not stop when asked, and was killed", p.Pid), err)
	}
}
