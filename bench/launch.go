package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keelson-io/keelson/client"
)

// Cluster is a cluster of programs that Launch started.
type Cluster struct {
	Endpoints []string
	Pids      []int // nil where processes cannot be measured
	members   []*member
}

// member is one of its programs.
type member struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
	err  error         // how, after done
}

const (
	startTimeout = time.Minute      // for a cluster to serve
	stopTimeout  = 20 * time.Second // for a program to end when asked
	benchQuota   = 16 << 30
)

// Launch starts a cluster on loopback ports, with its data and logs in dir. program is the binary and what comes before
// etcd's flags.
func Launch(ctx context.Context, dir string, size int, program ...string) (_ *Cluster, err error) {
	if size < 1 {
		return nil, fmt.Errorf("a cluster of %d members cannot be", size)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &Cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	addrs, err := freeAddrs(2 * size)
	if err != nil {
		return nil, err
	}
	peers := addrs[size:]
	var initial []string
	for i, addr := range addrs[:size] {
		c.Endpoints = append(c.Endpoints, "http://"+addr)
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, peers[i]))
	}
	for i, ep := range c.Endpoints {
		name := fmt.Sprintf("m%d", i)
		args := append(program[1:len(program):len(program)], "--name="+name, "--data-dir="+filepath.Join(dir, name),
			"--listen-client-urls="+ep, "--advertise-client-urls="+ep,
			"--listen-peer-urls=http://"+peers[i], "--initial-advertise-peer-urls=http://"+peers[i],
			"--initial-cluster="+strings.Join(initial, ","), fmt.Sprintf("--quota-backend-bytes=%d", benchQuota))
		m, err := launch(filepath.Join(dir, name+".log"), program[0], args)
		if err != nil {
			return nil, err
		}
		c.members = append(c.members, m)
		if _, err := cpuSeconds(m.cmd.Process.Pid); err == nil {
			c.Pids = append(c.Pids, m.cmd.Process.Pid)
		}
	}
	return c, c.wait(ctx)
}

func launch(log, program string, args []string) (*member, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = f, f, []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C at the terminal is for us alone: we stop it
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", program, err), f.Close())
	}
	m := &member{cmd: cmd, log: f, done: make(chan struct{})}
	go func() {
		m.err = errors.Join(cmd.Wait(), f.Close())
		close(m.done)
	}()
	return m, nil
}

// freeAddrs are addresses that were free a moment ago, all different.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // only when all are known
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// wait waits until every member answers.
func (c *Cluster) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for i, m := range c.members {
		if err := m.wait(ctx, c.Endpoints[i]); err != nil {
			return fmt.Errorf("member %d does not serve, see %s: %w", i, m.log.Name(), err)
		}
	}
	return nil
}

func (m *member) wait(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-m.done: // no use to wait for it
			cancel()
		case <-ctx.Done():
		}
	}()
	cl, err := client.New(client.Config{Endpoints: []string{endpoint}})
	if err != nil {
		return err
	}
	_, err = cl.Get(ctx, "ready")
	select {
	case <-m.done:
		err = fmt.Errorf("it has ended: %w", m.err)
	default:
	}
	return errors.Join(err, cl.Close())
}

// Stop ends the programs, and returns when they have ended.
func (c *Cluster) Stop() error {
	for _, m := range c.members {
		_ = m.cmd.Process.Signal(syscall.SIGTERM)
	}
	var errs []error
	for i, m := range c.members {
		select {
		case <-m.done:
		case <-time.After(stopTimeout):
			errs = append(errs, fmt.Errorf("member %d did not stop when asked, and was killed", i), m.cmd.Process.Kill())
			<-m.done
		}
	}
	c.members = nil
	return errors.Join(errs...)
}
