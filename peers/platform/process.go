package platform

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is a running program.
type Process struct {
	Log string // the file that has what it wrote

	cmd   *exec.Cmd
	ended chan struct{}
	err   error // why it ended, once it has
}

// Exec starts bin/keelson. What it writes is appended to the file log; line, if not nil, is called with each line of its
// standard output.
func Exec(log string, line func(string), args ...string) (*Process, error) {
	program, err := Find("keelson", "make build")
	if err != nil {
		return nil, err
	}
	return run(program, log, line, args)
}

// ExecPeer starts a program below bin/peers, as Exec does.
func ExecPeer(name, log string, args ...string) (*Process, error) {
	program, err := Find(filepath.Join("peers", name), "make peers")
	if err != nil {
		return nil, err
	}
	return run(program, log, nil, args)
}

func run(program, log string, line func(string), args []string) (*Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Process{Log: log, cmd: exec.Command(program, args...), ended: make(chan struct{})}
	p.cmd.Stderr = file
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	go p.follow(out, file, line)
	return p, nil
}

// follow copies what the process says to its log until it has ended.
func (p *Process) follow(out io.Reader, log *os.File, line func(string)) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		_, _ = fmt.Fprintln(log, lines.Text())
		if line != nil {
			line(lines.Text())
		}
	}
	p.err = errors.Join(p.cmd.Wait(), log.Close())
	close(p.ended)
}

// Stop ends the process in order, and says whether that went well.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("platform: it does not stop; see %s", p.Log), p.Kill())
	}
}

// Kill ends the process at once.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
