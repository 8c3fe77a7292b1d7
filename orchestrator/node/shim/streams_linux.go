package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/wire"
)

// Exec runs a command in a running container and returns its exit code: 128 and the signal if one ended it. It returns when
// the command has ended, and what it wrote has been passed on; what it left running in the background keeps running. When the
// context ends the command is killed.
func (c *Client) Exec(ctx context.Context, id string, spec ExecSpec, streams Streams) (exit int, err error) {
	req := wire.Request{Op: wire.OpExec, ID: id, Exec: &spec}
	var ends *pipes
	if !spec.Terminal {
		if ends, err = newPipes(streams); err != nil {
			return 0, err
		}
		req.Streams = ends.asked
	}
	conn, hangup, err := c.dial(ctx)
	if err != nil {
		ends.close()
		return 0, err
	}
	defer hangup()
	reply, files, err := c.open(ctx, conn, &req, ends)
	if err != nil {
		ends.close()
		return 0, err
	}
	if spec.Terminal {
		if len(files) != 1 {
			return 0, errors.New("shim: exec: no terminal was sent")
		}
		ends = &pipes{out: files[0], in: files[0]}
		defer resizing(files[0], streams.Resize)()
	}
	ends.move(streams)
	_, err = conn.Receive(&reply)
	ends.finish()
	switch {
	case err != nil:
		return 0, c.failed(ctx, err)
	case reply.Error != "":
		return 0, errorOf(&reply)
	case reply.Exit == nil:
		return 0, errors.New("shim: exec: no exit code was sent")
	}
	return *reply.Exit, nil
}

// Attach joins the streams of a container until it ends, or the context does, or the client's input ends and the container's
// does not end with it. A client that takes no output holds the container up for a while, and is dropped then.
func (c *Client) Attach(ctx context.Context, id string, streams Streams) error {
	ends, err := newPipes(streams)
	if err != nil {
		return err
	}
	conn, hangup, err := c.dial(ctx)
	if err != nil {
		ends.close()
		return err
	}
	defer hangup()
	reply, files, err := c.open(ctx, conn, &wire.Request{Op: wire.OpAttach, ID: id, Streams: ends.asked}, ends)
	if err != nil {
		ends.close()
		return err
	}
	for _, master := range files {
		defer func() { _ = master.Close() }()
		defer resizing(master, streams.Resize)()
	}
	ends.move(streams)
	_, err = conn.Receive(&reply)
	ends.finish()
	if err != nil {
		return c.failed(ctx, err)
	}
	return errorOf(&reply)
}

// open sends a request with our ends' counterparts, and returns the first reply.
func (c *Client) open(ctx context.Context, conn wire.Conn, req *wire.Request, ends *pipes) (reply wire.Reply, files []*os.File, err error) {
	var send []*os.File
	if ends != nil {
		send = ends.theirs
	}
	err = conn.Send(req, send...)
	for _, f := range send {
		_ = f.Close()
	}
	if err == nil {
		files, err = conn.Receive(&reply)
	}
	if err != nil {
		return reply, nil, c.failed(ctx, err)
	}
	return reply, files, errorOf(&reply)
}

// pipes are our ends of the standard streams.
type pipes struct {
	asked  wire.Streams
	theirs []*os.File
	in     *os.File // that we write to
	out    *os.File // that we read from; a terminal's is both
	err    *os.File
	copies sync.WaitGroup // of output
}

func newPipes(s Streams) (p *pipes, err error) {
	p = &pipes{asked: wire.Streams{Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil}}
	add := func(wanted bool, ours **os.File, input bool) {
		if !wanted || err != nil {
			return
		}
		var r, w *os.File
		if r, w, err = os.Pipe(); err != nil {
			return
		}
		if input {
			r, w = w, r
		}
		*ours, p.theirs = r, append(p.theirs, w)
	}
	add(p.asked.Stdin, &p.in, true)
	add(p.asked.Stdout, &p.out, false)
	add(p.asked.Stderr, &p.err, false)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("shim: %w", err)
	}
	return p, nil
}

func (p *pipes) close() {
	if p == nil {
		return
	}
	for _, f := range append(p.theirs, p.in, p.out, p.err) {
		if f != nil {
			_ = f.Close()
		}
	}
}

// move starts to copy. A copy of input ends with its reader, which may be after the call.
func (p *pipes) move(s Streams) {
	if p.in != nil && s.Stdin != nil {
		go func() {
			_, _ = io.Copy(onlyWriter{p.in}, s.Stdin)
			if p.in != p.out { // the end of the input does not end a terminal
				_ = p.in.Close()
			}
		}()
	}
	if p.out != nil {
		p.copies.Go(func() { passOn(p.out, s.Stdout) })
	}
	if p.err != nil {
		p.copies.Go(func() { passOn(p.err, s.Stderr) })
	}
}

// finish passes on what was written until now, and ends all copies.
func (p *pipes) finish() {
	for _, f := range []*os.File{p.out, p.err} {
		if f != nil {
			_ = f.SetReadDeadline(time.Now())
		}
	}
	p.copies.Wait()
	p.close()
}

// onlyWriter hides the other methods of a file.
type onlyWriter struct{ io.Writer }

// passOn copies until the end of a stream, or until its deadline, and then what lies in it.
func passOn(from *os.File, to io.Writer) {
	if to == nil {
		to = io.Discard
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				to = io.Discard // the process must not be blocked by it
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			passRest(from, to, buf)
			return
		}
		if err != nil {
			return
		}
	}
}

// passRest copies what can be read without waiting.
func passRest(from *os.File, to io.Writer, buf []byte) {
	_ = from.SetReadDeadline(time.Time{})
	raw, err := from.SyscallConn()
	if err != nil {
		return
	}
	for left := 1 << 20; left > 0; { // something in the background may go on writing
		var n int
		var rerr error
		if err := raw.Read(func(fd uintptr) bool {
			n, rerr = unix.Read(int(fd), buf)
			return true
		}); err != nil || rerr != nil || n <= 0 {
			return
		}
		left -= n
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// resizing follows the sizes of a terminal until it is told to stop.
func resizing(master *os.File, sizes <-chan Size) (stop func()) {
	if sizes == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case size, ok := <-sizes:
				if !ok {
					return
				}
				raw, err := master.SyscallConn()
				if err != nil {
					return
				}
				_ = raw.Control(func(fd uintptr) {
					_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
				})
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}
