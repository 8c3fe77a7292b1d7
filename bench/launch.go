package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/keelson-io/keelson/client"
)

// Spec says what cluster to start.
type Spec struct {
	Dir     string // for data and logs
	Size    int
	Program []string // the binary, and what comes before etcd's flags
	// Secure members have TLS on all ports, with certificates that they make themselves, and want a user and a password.
	Secure bool
}

// Cluster is a cluster of programs that Launch started.
type Cluster struct {
	endpoints []string
	pids      []int // nil where processes cannot be measured
	secure    bool
	members   []*member
}

// Connect sets in options how the cluster is reached.
func (c *Cluster) Connect(o *Options) {
	o.Endpoints, o.Pids, o.TLS = c.endpoints, c.pids, c.tls()
	if c.secure {
		o.User, o.Password = "root", "bench"
	}
}

func (c *Cluster) tls() *tls.Config {
	if !c.secure {
		return nil
	}
	return &tls.Config{InsecureSkipVerify: true} // certificates of programs that we started ourselves
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

// Launch starts a cluster on loopback ports.
func Launch(ctx context.Context, spec Spec) (_ *Cluster, err error) {
	if spec.Size < 1 {
		return nil, fmt.Errorf("a cluster of %d members cannot be", spec.Size)
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return nil, err
	}
	c := &Cluster{secure: spec.Secure}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	addrs, err := freeAddrs(2 * spec.Size)
	if err != nil {
		return nil, err
	}
	scheme, flags := "http://", spec.Program[1:]
	if spec.Secure {
		scheme, flags = "https://", slices.Concat(flags, []string{"--auto-tls", "--peer-auto-tls"})
	}
	var peers, initial []string
	for i := range spec.Size {
		c.endpoints, peers = append(c.endpoints, scheme+addrs[i]), append(peers, scheme+addrs[spec.Size+i])
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i, ep := range c.endpoints {
		name := fmt.Sprintf("m%d", i)
		args := append(slices.Clone(flags), "--name="+name, "--data-dir="+filepath.Join(spec.Dir, name),
			"--listen-client-urls="+ep, "--advertise-client-urls="+ep, "--listen-peer-urls="+peers[i], "--initial-advertise-peer-urls="+peers[i],
			"--initial-cluster="+strings.Join(initial, ","), fmt.Sprintf("--quota-backend-bytes=%d", benchQuota))
		m, err := launch(filepath.Join(spec.Dir, name+".log"), spec.Program[0], args)
		if err != nil {
			return nil, err
		}
		c.members = append(c.members, m)
		if _, err := cpuSeconds(m.cmd.Process.Pid); err == nil {
			c.pids = append(c.pids, m.cmd.Process.Pid)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.wait(ctx); err != nil || !spec.Secure {
		return c, err
	}
	return c, c.enableAuth(ctx)
}

// enableAuth makes the user that Connect names, and lets nobody else in.
func (c *Cluster) enableAuth(ctx context.Context) error {
	var o Options
	c.Connect(&o)
	cl, err := client.New(client.Config{Endpoints: o.Endpoints, TLS: o.TLS})
	if err != nil {
		return err
	}
	defer cl.Close()
	if _, err := cl.UserAdd(ctx, o.User, o.Password); err != nil {
		return err
	}
	if _, err := cl.RoleAdd(ctx, o.User); err != nil {
		return err
	}
	if _, err := cl.UserGrantRole(ctx, o.User, o.User); err != nil {
		return err
	}
	_, err = cl.AuthEnable(ctx)
	return err
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
	for i, m := range c.members {
		if err := m.wait(ctx, client.Config{Endpoints: c.endpoints[i : i+1], TLS: c.tls()}); err != nil {
			return fmt.Errorf("member %d does not serve, see %s: %w", i, m.log.Name(), err)
		}
	}
	return nil
}

func (m *member) wait(ctx context.Context, cfg client.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-m.done: // no use to wait for it
			cancel()
		case <-ctx.Done():
		}
	}()
	cl, err := client.New(cfg)
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
