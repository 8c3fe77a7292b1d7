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
	Pids      []int
	cmds      []*exec.Cmd
	logs      []*os.File
}

// startTimeout is how long a cluster may take until it serves.
const startTimeout = time.Minute

// Launch starts a cluster on loopback ports, with its data and logs in dir. program is the binary and what comes before
// etcd's flags.
func Launch(ctx context.Context, dir string, size int, program ...string) (_ *Cluster, err error) {
	c := &Cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	var peers, initial []string
	for i := range size {
		for _, list := range []*[]string{&c.Endpoints, &peers} {
			addr, err := freeAddr()
			if err != nil {
				return nil, err
			}
			*list = append(*list, "http://"+addr)
		}
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i := range size {
		args := append(append([]string{}, program[1:]...), fmt.Sprintf("--name=m%d", i), "--data-dir="+filepath.Join(dir, fmt.Sprintf("m%d", i)),
			"--listen-client-urls="+c.Endpoints[i], "--advertise-client-urls="+c.Endpoints[i], "--listen-peer-urls="+peers[i],
			"--initial-advertise-peer-urls="+peers[i], "--initial-cluster="+strings.Join(initial, ","), "--quota-backend-bytes=17179869184")
		if err := c.launch(filepath.Join(dir, fmt.Sprintf("m%d.log", i)), program[0], args); err != nil {
			return nil, err
		}
	}
	return c, c.wait(ctx)
}

func (c *Cluster) launch(log, program string, args []string) error {
	f, err := os.Create(log)
	if err != nil {
		return err
	}
	c.logs = append(c.logs, f)
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = f, f, []string{"PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", program, err)
	}
	c.cmds, c.Pids = append(c.cmds, cmd), append(c.Pids, cmd.Process.Pid)
	return nil
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// wait waits until every member answers.
func (c *Cluster) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for i, ep := range c.Endpoints {
		cl, err := client.New(client.Config{Endpoints: []string{ep}})
		if err != nil {
			return err
		}
		_, err = cl.Get(ctx, "ready")
		if err := errors.Join(err, cl.Close()); err != nil {
			return fmt.Errorf("member %d does not serve, see %s: %w", i, c.logs[i].Name(), err)
		}
	}
	return nil
}

// Stop ends the programs.
func (c *Cluster) Stop() error {
	for _, cmd := range c.cmds {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	var errs []error
	for _, cmd := range c.cmds {
		done := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		done.Stop()
	}
	for _, f := range c.logs {
		errs = append(errs, f.Close())
	}
	c.cmds, c.logs = nil, nil
	return errors.Join(errs...)
}
