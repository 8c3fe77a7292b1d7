package transport

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	// streamQueue is how many messages wait for a stream.
	streamQueue = 4096
	// closeGrace is how long a stream that is being closed may still take for the bytes on their way.
	closeGrace = 200 * time.Millisecond
)

// delivery is what became of a message.
type delivery int

const (
	queued delivery = iota
	notConnected
	queueFull
)

// outgoing is one of the two streams to a peer. The peer opens it; until then, and between two connections, it takes no
// messages.
type outgoing struct {
	kind streamKind
	peer *peer

	mu     sync.Mutex
	conn   *streamConn // nil: not connected
	closed bool
}

// streamConn is one connection of a stream. Its goroutine is that of the HTTP handler.
type streamConn struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	enc  encoder
	buf  []byte
	wake chan struct{} // capacity 1
	quit chan struct{} // closed by close

	queue, spare []*raftpb.Message // queue is guarded by outgoing.mu

	mu   sync.Mutex // guards the write deadline
	dead bool       // no more writes
}

// send queues a message.
func (o *outgoing) send(m *raftpb.Message) delivery {
	o.mu.Lock()
	c := o.conn
	switch {
	case c == nil:
		o.mu.Unlock()
		return notConnected
	case len(c.queue) >= streamQueue:
		o.mu.Unlock()
		return queueFull
	}
	c.queue = append(c.queue, m)
	first := len(c.queue) == 1
	o.mu.Unlock()
	if first {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return queued
}

// take returns all waiting messages.
func (o *outgoing) take(c *streamConn) []*raftpb.Message {
	clear(c.spare)
	o.mu.Lock()
	defer o.mu.Unlock()
	c.queue, c.spare = c.spare[:0], c.queue
	return c.spare
}

// serve sends messages until the connection breaks, is replaced or closed. The header has been sent.
func (o *outgoing) serve(ctx context.Context, w http.ResponseWriter, rc *http.ResponseController) {
	c := &streamConn{w: w, rc: rc, enc: o.kind.encoder(), wake: make(chan struct{}, 1), quit: make(chan struct{})}
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	old := o.conn
	o.conn = c
	o.mu.Unlock()
	if old != nil {
		old.close()
	}
	p := o.peer
	p.status.activate()
	p.lg.Info("peer opened a stream", zap.Stringer("stream", o.kind))

	err := o.run(ctx, c)
	c.release()
	o.mu.Lock()
	if o.conn == c {
		o.conn = nil
	}
	closed := o.closed
	o.mu.Unlock()
	p.lg.Info("stream ended", zap.Stringer("stream", o.kind), zap.Error(err))
	if closed {
		return
	}
	if !errors.Is(err, errSuperseded) {
		p.status.deactivate("write "+o.kind.String()+" stream", err)
	}
	p.lost() // what is on its way may be as lost as what waits
}

// run is the loop of serve. It returns why it ended.
func (o *outgoing) run(ctx context.Context, c *streamConn) error {
	tick := clock.Real.NewTicker(o.peer.t.cfg.HeartbeatInterval)
	defer tick.Stop()
	heartbeat := []*raftpb.Message{newLinkHeartbeat()}
	for {
		var batch []*raftpb.Message
		select {
		case <-c.wake:
			if batch = o.take(c); len(batch) == 0 {
				continue
			}
		case <-tick.C():
			batch = heartbeat
		case <-c.quit:
			return errSuperseded
		case <-ctx.Done():
			return errClosedByPeer
		}
		if err := o.write(c, batch); err != nil {
			select {
			case <-c.quit:
				return errSuperseded
			default:
				return err
			}
		}
	}
}

// write sends a batch and flushes once.
func (o *outgoing) write(c *streamConn, batch []*raftpb.Message) error {
	buf, sent := c.buf[:0], 0
	for _, m := range batch {
		var err error
		if buf, err = c.enc.encode(buf, m); err != nil {
			return err
		}
		if len(buf) >= pieceBytes {
			if err := c.write(o.peer, buf); err != nil {
				return err
			}
			sent += len(buf)
			buf = buf[:0]
		}
	}
	if err := c.write(o.peer, buf); err != nil {
		return err
	}
	if err := c.rc.Flush(); err != nil {
		return err
	}
	sent += len(buf)
	o.peer.sentBytes.Add(float64(sent))
	c.buf = nil
	if cap(buf) <= keepBytes {
		c.buf = buf
	}
	return nil
}

// write passes bytes to the connection, each piece in time.
func (c *streamConn) write(p *peer, b []byte) error {
	for {
		if err := c.arm(p); err != nil || len(b) == 0 {
			return err
		}
		n, err := c.w.Write(b[:min(len(b), pieceBytes)])
		if err != nil {
			return err
		}
		b = b[n:]
	}
}

// arm sets the deadline of the next write, which may be a flush.
func (c *streamConn) arm(p *peer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return errSuperseded
	}
	return setDeadline(c.rc.SetWriteDeadline, p.t.cfg.WriteTimeout)
}

// close ends the loop soon, even if it is in the middle of a write.
func (c *streamConn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.quit:
		return
	default:
		close(c.quit)
	}
	if !c.dead {
		c.dead = true
		_ = setDeadline(c.rc.SetWriteDeadline, closeGrace) // without deadlines the loop ends after the write
	}
}

// release says that the handler is about to return: the connection is no longer ours.
func (c *streamConn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
}

// stop closes the stream for good.
func (o *outgoing) stop() {
	o.mu.Lock()
	o.closed = true
	c := o.conn
	o.conn = nil
	o.mu.Unlock()
	if c != nil {
		c.close()
	}
}
