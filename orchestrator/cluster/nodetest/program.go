//go:build linux

package nodetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keelson-io/keelson/internal/testkit"
)

// limit is for what must come about. It is generous: machines that run tests are busy.
const limit = 2 * time.Minute

// errMissing is that a program was not built.
var errMissing = errors.New("missing")

// repository is its root directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("nodetest: outside of the repository")
		}
		dir = filepath.Dir(dir)
	}
}

// built finds a program below bin.
func built(name, how string) (string, error) {
	dir, err := repository()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("nodetest: bin/%s is %w: run %s", name, errMissing, how)
	}
	return path, nil
}

// Program is keelson on a machine, with fixed arguments, run again and again.
type Program struct {
	// Log is the file that what it writes is appended to.
	Log string

	ns   *testkit.NetNS
	path string
	args []string
	boot string // file with the ID of the machine's start; "": that of the machine that runs the test

	cmd  *exec.Cmd
	done chan struct{}
}

// Start runs the program.
func (p *Program) Start() error {
	if p.Running() {
		return errors.New("nodetest: it runs")
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	out, err := os.Create(p.out())
	if err != nil {
		return errors.Join(err, log.Close())
	}
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = out, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(p.Log)}
	if err := p.ns.Do(cmd.Start); err != nil {
		return errors.Join(err, log.Close(), out.Close())
	}
	p.cmd, p.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait() // how it ended does not matter
		_, _ = log.Close(), out.Close()
		close(done)
	}(p.done)
	return nil
}

// booted runs a program where its machine has a boot ID of its own, which takes a mount namespace.
const booted = `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`

func (p *Program) command() *exec.Cmd {
	if p.boot == "" {
		return exec.Command(p.path, p.args...)
	}
	return exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", booted, p.boot, p.path}, p.args...)...)
}

// out is the file of what it says on its standard output since it was started.
func (p *Program) out() string { return p.Log + ".out" }

// Running says whether the program runs.
func (p *Program) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the program as it is.
func (p *Program) Kill() error { return p.end(syscall.SIGKILL) }

// Stop ends the program in order.
func (p *Program) Stop() error { return p.end(syscall.SIGTERM) }

func (p *Program) end(s syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	_ = p.cmd.Process.Signal(s) // it may be gone
	select {
	case <-p.done:
		return nil
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("nodetest: keelson %s did not end; see %s", p.args[0], p.Log)
	}
}

// Says waits until the program has said something on its standard output.
func (p *Program) Says(text string) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		out, err := os.ReadFile(p.out())
		switch {
		case err != nil:
			return err
		case bytes.Contains(out, []byte(text)):
			return nil
		case !p.Running():
			return fmt.Errorf("nodetest: keelson %s has ended: %s%s", p.args[0], out, p.tail())
		case time.Now().After(end):
			return fmt.Errorf("nodetest: keelson %s does not say %q: %s%s", p.args[0], text, out, p.tail())
		}
	}
}

// tail is the end of the log.
func (p *Program) tail() string {
	b, _ := os.ReadFile(p.Log) // without it there is nothing to show
	return string(b[max(0, len(b)-4000):])
}
