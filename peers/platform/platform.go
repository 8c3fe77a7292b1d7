// Package platform runs the whole platform, bin/keelson up, as a process of its own on a free port of the loopback interface,
// for suites that work on it with clients of others.
package platform

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// patience bounds a start and a stop. It is generous: machines that run tests are busy.
const patience = 2 * time.Minute

// ready is the line that says that everything runs.
var ready = regexp.MustCompile(`ready: (https://\S+)`)

// Options say what is started.
type Options struct {
	// Dir is the data directory; it also gets the kubeconfig and the file log.
	Dir string
	// Port is where the API server listens; 0 is any free one.
	Port int
	// HollowNodes is the number of simulated nodes.
	HollowNodes int
	// Args are further arguments of keelson up.
	Args []string
}

// Platform is a running platform.
type Platform struct {
	// URL is where the API server is, Kubeconfig a file that says how to reach it as an administrator, and Log the file that
	// has what the process wrote.
	URL, Kubeconfig, Log string

	cmd   *exec.Cmd
	ended chan struct{}
	err   error // why the process ended, once it has
}

// Start starts a platform and waits until everything runs. A directory in which one ran before goes on.
func Start(o Options) (*Platform, error) {
	program, err := Find("keelson", "make build")
	if err != nil {
		return nil, err
	}
	p := &Platform{Kubeconfig: filepath.Join(o.Dir, "kubeconfig"), Log: filepath.Join(o.Dir, "log"), ended: make(chan struct{})}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p.cmd = exec.Command(program, append([]string{"up", "--data-dir", o.Dir, "--kubeconfig", p.Kubeconfig,
		"--secure-port", strconv.Itoa(o.Port), "--hollow-nodes", strconv.Itoa(o.HollowNodes)}, o.Args...)...)
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	url := make(chan string, 1)
	go p.follow(out, log, url)
	select {
	case p.URL = <-url:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("platform: it ended before it was ready: %w; see %s", p.err, p.Log)
	case <-time.After(patience):
		return nil, errors.Join(fmt.Errorf("platform: not ready after %v; see %s", patience, p.Log), p.Kill())
	}
}

// follow copies what the process says to its log, and tells the URL once it is ready, until the process has ended.
func (p *Platform) follow(out io.Reader, log *os.File, url chan<- string) {
	var once sync.Once
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fmt.Fprintln(log, lines.Text())
		if m := ready.FindStringSubmatch(lines.Text()); m != nil {
			once.Do(func() { url <- m[1] })
		}
	}
	p.err = errors.Join(p.cmd.Wait(), log.Close())
	close(p.ended)
}

// Stop ends the process in order, and says whether that went well.
func (p *Platform) Stop() error {
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
func (p *Platform) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
