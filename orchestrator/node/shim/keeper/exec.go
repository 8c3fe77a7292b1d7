//go:build linux && cgo

package keeper

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runc/libcontainer"

	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// exec runs a process in a container. Without a terminal its streams are the client's files; with one the client is given
// our side of it. The first reply says that it runs, the second that it has ended. When the client hangs up it is killed.
func (k *Keeper) exec(conn wire.Conn, req *wire.Request, files []*os.File) error {
	c, err := k.find(req.ID)
	if err != nil {
		return err
	}
	if req.Exec == nil || len(req.Exec.Args) == 0 {
		return fmt.Errorf("exec in %s: no command is given", c.id)
	}
	p, receive, err := c.newExec(req, files)
	if err != nil {
		return fmt.Errorf("exec in %s: %w", c.id, err)
	}
	pid, err := k.enter(c, p)
	master, merr := receive(err)
	for _, f := range files {
		_ = f.Close() // so that their other ends see the end of the process
	}
	if err = errors.Join(err, merr); err != nil {
		if pid > 0 {
			_ = p.Signal(unix.SIGKILL)
			_ = await(p)
			k.disown(pid)
		}
		return fmt.Errorf("exec in %s: %w", c.id, err)
	}
	var send []*os.File
	if master != nil {
		send = []*os.File{master}
	}
	err = conn.Send(wire.Reply{Pid: pid}, send...)
	if master != nil {
		_ = master.Close()
	}
	gone := hangup(conn)
	ended := make(chan int, 1)
	go func() {
		ended <- await(p)
		k.disown(pid)
	}()
	var code int
	if err == nil {
		select {
		case code = <-ended:
			return conn.Send(wire.Reply{Exit: &code})
		case <-gone:
		}
	}
	_ = unix.Kill(-pid, unix.SIGKILL) // it leads a session; what it started in it goes too
	_ = p.Signal(unix.SIGKILL)
	<-ended
	return nil
}

// newExec makes the process. receive is called after its start and returns the master of its terminal, if it has one.
func (c *container) newExec(req *wire.Request, files []*os.File) (_ *libcontainer.Process, receive func(error) (*os.File, error), err error) {
	spec := *c.spec
	spec.Args = req.Exec.Args
	if req.Exec.Env != nil {
		spec.Env = req.Exec.Env
	}
	if req.Exec.Cwd != "" {
		spec.Cwd = req.Exec.Cwd
	}
	p, err := newProcess(&spec)
	if err != nil {
		return nil, nil, err
	}
	if req.Exec.Terminal {
		receive, err = console(p)
		return p, receive, err
	}
	receive = func(error) (*os.File, error) { return nil, nil }
	give := func() *os.File {
		f := files[0]
		files = files[1:]
		err = errors.Join(err, chown(f, c.rootIDs))
		return f
	}
	if req.Streams.Stdin {
		p.Stdin = give()
	}
	for _, out := range []struct {
		has bool
		to  *io.Writer
	}{{req.Streams.Stdout, &p.Stdout}, {req.Streams.Stderr, &p.Stderr}} {
		if out.has {
			*out.to = give()
		}
	}
	return p, receive, err
}

// enter starts a process in a running container.
func (k *Keeper) enter(c *container, p *libcontainer.Process) (int, error) {
	c.op.Lock()
	defer c.op.Unlock()
	k.mu.Lock()
	status := c.state.Status
	k.mu.Unlock()
	if status != wire.Running {
		return 0, errorf(wire.Wrong, "it is %s", status)
	}
	return k.own(func() (int, error) {
		if err := c.lib.Start(p); err != nil {
			return 0, err
		}
		return p.Pid()
	})
}

// attach joins a client to the streams of a container until it hangs up or the container ends.
func (k *Keeper) attach(conn wire.Conn, req *wire.Request, files []*os.File) error {
	cl := &client{gone: make(chan struct{})}
	var stdin *os.File
	var err error
	take := func(has bool, to **os.File) {
		if has {
			var perr error
			*to, perr = wire.Pollable(files[0])
			err = errors.Join(err, perr)
			files = files[1:]
		}
	}
	take(req.Streams.Stdin, &stdin)
	take(req.Streams.Stdout, &cl.out[0])
	take(req.Streams.Stderr, &cl.out[1])
	if stdin != nil {
		defer func() { _ = stdin.Close() }()
	}
	if err != nil {
		cl.close()
		return err
	}
	c, err := k.find(req.ID)
	if err != nil {
		cl.close()
		return err
	}
	if err := c.stdio.attach(cl, stdin, func(master *os.File) error {
		if master == nil {
			return conn.Send(wire.Reply{})
		}
		return conn.Send(wire.Reply{}, master)
	}); err != nil {
		cl.close()
		return fmt.Errorf("attach to %s: %w", c.id, err)
	}
	select {
	case <-cl.gone:
	case <-hangup(conn):
	}
	c.stdio.detach(cl)
	return conn.Send(wire.Reply{})
}

// attach adds a client. accept is called before its first output.
func (s *stdio) attach(c *client, stdin *os.File, accept func(master *os.File) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errorf(wire.Wrong, "it has stopped")
	}
	if stdin != nil && !s.wantsIn {
		return errors.New("it has no standard input")
	}
	if err := accept(s.master); err != nil {
		return err
	}
	s.clients = append(s.clients, c)
	if stdin != nil {
		go s.feed(c, stdin)
	}
	return nil
}

// feed moves the input of a client until its end. Then the container's input ends too, if it is to end with the first client;
// otherwise the client leaves.
func (s *stdio) feed(c *client, from *os.File) {
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := s.stdin.Write(buf[:n]); werr != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	if s.stdinOnce && !s.terminal {
		s.mu.Lock()
		_ = s.stdin.Close()
		s.mu.Unlock()
		return
	}
	s.detach(c)
}
