//go:build linux && cgo

package keeper

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/crilog"
	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// stalled is how long an attached client may take no output before it is dropped: until then the container waits for it.
const stalled = 30 * time.Second

// stdio moves the standard streams of a container: its output to the log and to the clients that are attached, and their
// input to it.
type stdio struct {
	log       *crilog.Writer
	wantsIn   bool
	stdinOnce bool
	terminal  bool

	pumps sync.WaitGroup
	ended chan struct{} // closed when all output has been moved

	mu      sync.Mutex
	outputs []*os.File // our ends
	stdin   *os.File   // our end; the master of a terminal
	master  *os.File
	clients []*client
	closed  bool
}

// client is one that is attached.
type client struct {
	out    [2]*os.File   // by crilog.Stream; nil if it does not want that
	gone   chan struct{} // closed when it is no longer attached
	hangup sync.Once
}

func newStdio(req *wire.Container) (*stdio, error) {
	s := &stdio{wantsIn: req.Stdin, stdinOnce: req.StdinOnce, terminal: req.Terminal, ended: make(chan struct{})}
	if req.LogPath == "" {
		return s, nil
	}
	var err error
	s.log, err = crilog.Open(req.LogPath, time.Now)
	return s, err
}

// connect gives a process its streams. finish is called with the outcome of its start, and begins to move them.
func (s *stdio) connect(p *libcontainer.Process, terminal bool, owner [2]int) (finish func(error) error, err error) {
	if terminal {
		receive, err := console(p)
		if err != nil {
			return nil, err
		}
		return func(err error) error {
			master, merr := receive(err)
			if err = errors.Join(err, merr); err != nil {
				return err
			}
			s.mu.Lock()
			s.master, s.outputs = master, []*os.File{master}
			if s.wantsIn {
				s.stdin = master
			}
			s.mu.Unlock()
			s.move()
			return nil
		}, nil
	}
	theirs, err := s.pipes(p, owner)
	if err != nil {
		return nil, err
	}
	return func(err error) error {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err == nil {
			s.move()
		}
		return err
	}, nil
}

// pipes makes the pipes of a process without a terminal, and returns its ends.
func (s *stdio) pipes(p *libcontainer.Process, owner [2]int) (theirs []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range theirs {
				_ = f.Close()
			}
		}
	}()
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err == nil {
			err = chown(r, owner)
		}
		return r, w, err
	}
	if s.wantsIn {
		r, w, err := pipe()
		if err != nil {
			return theirs, err
		}
		p.Stdin, s.stdin, theirs = r, w, append(theirs, r)
	}
	for _, to := range []*io.Writer{&p.Stdout, &p.Stderr} {
		r, w, err := pipe()
		if err != nil {
			return theirs, err
		}
		*to, s.outputs, theirs = w, append(s.outputs, r), append(theirs, w)
	}
	return theirs, nil
}

// chown gives a stream to the root of the container's user namespace, which can then open it again through /dev/stdout.
func chown(f *os.File, owner [2]int) error {
	if owner == [2]int{} {
		return nil
	}
	return f.Chown(owner[0], owner[1])
}

// console gives a process a terminal. receive returns our side of it once the process has started.
func console(p *libcontainer.Process) (receive func(error) (*os.File, error), err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console")
	p.ConsoleSocket = theirs
	return func(err error) (*os.File, error) {
		_ = theirs.Close()
		defer func() { _ = ours.Close() }()
		if err != nil {
			return nil, nil
		}
		return receiveFile(ours)
	}, nil
}

func receiveFile(socket *os.File) (*os.File, error) {
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive the terminal: %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive the terminal: %d files: %w", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// move starts to move the output.
func (s *stdio) move() {
	for i, f := range s.outputs {
		s.pumps.Go(func() { s.pump(crilog.Stream(i), f) })
	}
	go func() {
		s.pumps.Wait()
		close(s.ended)
	}()
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// pump moves one stream until its end. A buffer is held only while there is something to move.
func (s *stdio) pump(stream crilog.Stream, from *os.File) {
	defer func() {
		if err := s.log.End(stream); err != nil {
			log.Print(err)
		}
	}()
	raw, err := from.SyscallConn()
	if err != nil {
		log.Print(err)
		return
	}
	for {
		var buf *[32 << 10]byte
		var n int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			buf = buffers.Get().(*[32 << 10]byte)
			for {
				if n, rerr = unix.Read(int(fd), buf[:]); rerr != unix.EINTR {
					break
				}
			}
			if rerr == unix.EAGAIN {
				buffers.Put(buf)
				return false
			}
			return true
		})
		if err != nil || rerr != nil || n <= 0 { // the other ends are closed (EIO: those of a terminal), or ours is
			return
		}
		if err := s.log.Write(stream, buf[:n]); err != nil {
			log.Print(err)
		}
		s.broadcast(stream, buf[:n])
		buffers.Put(buf)
	}
}

func (s *stdio) broadcast(stream crilog.Stream, p []byte) {
	s.mu.Lock()
	clients := slices.Clone(s.clients)
	s.mu.Unlock()
	for _, c := range clients {
		if !c.write(stream, p) {
			s.detach(c)
		}
	}
}

// write tells whether the client is still there.
func (c *client) write(stream crilog.Stream, p []byte) bool {
	f := c.out[stream]
	if f == nil {
		return true
	}
	_ = f.SetWriteDeadline(time.Now().Add(stalled))
	_, err := f.Write(p)
	return err == nil
}

// close ends the client's streams. A write to them that waits fails.
func (c *client) close() {
	c.hangup.Do(func() {
		close(c.gone)
		for _, f := range c.out {
			if f != nil {
				_ = f.Close()
			}
		}
	})
}

func (s *stdio) detach(c *client) {
	s.mu.Lock()
	s.clients = slices.DeleteFunc(s.clients, func(have *client) bool { return have == c })
	s.mu.Unlock()
	c.close()
}

// drain waits until all output of what has ended was moved. Somebody else may hold a stream open; that is waited for a while.
func (s *stdio) drain(patience time.Duration) {
	select {
	case <-s.ended:
	case <-time.After(patience):
	}
	s.close()
	<-s.ended
}

// close ends all streams.
func (s *stdio) close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	clients := slices.Clone(s.clients)
	for _, f := range s.outputs {
		_ = f.Close()
	}
	if s.stdin != nil {
		_ = s.stdin.Close()
	}
	s.mu.Unlock()
	for _, c := range clients {
		s.detach(c)
	}
	if err := s.log.Close(); err != nil {
		log.Print(err)
	}
}
