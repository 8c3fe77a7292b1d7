package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// snapshotBody is a message, then exactly size bytes of a database. Closing closes the database, once.
type snapshotBody struct {
	head   *bytes.Reader
	db     io.ReadCloser
	left   int64
	once   sync.Once
	closed chan struct{}
}

func newSnapshotBody(m *raftpb.Message, db io.ReadCloser, size int64) (*snapshotBody, error) {
	head, err := appendSized(nil, m)
	switch {
	case err != nil:
		return nil, err
	case len(head) > maxSnapshotMessageBytes+8:
		return nil, fmt.Errorf("%w: snapshot message of %d bytes", ErrTooLarge, len(head))
	}
	return &snapshotBody{head: bytes.NewReader(head), db: db, left: size, closed: make(chan struct{})}, nil
}

// Read implements io.Reader.
func (b *snapshotBody) Read(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case b.head.Len() > 0:
		return b.head.Read(p)
	case b.left <= 0:
		return 0, io.EOF
	}
	n, err := b.db.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if errors.Is(err, io.EOF) && b.left > 0 {
		err = fmt.Errorf("transport: the database ended %d bytes early", b.left)
	}
	return n, err
}

// Close implements io.Closer.
func (b *snapshotBody) Close() error {
	err := errors.New("transport: database closed twice")
	b.once.Do(func() {
		err = b.db.Close()
		close(b.closed)
	})
	return err
}

// SendSnapshot sends a MsgSnap together with size bytes of the database in the background. It closes db and tells Raft
// the outcome whatever happens.
func (t *Transport) SendSnapshot(m *raftpb.Message, db io.ReadCloser, size int64) {
	t.mu.RLock()
	p := t.peers[m.GetTo()]
	started := p != nil && !p.cut.Load()
	if started {
		p.wg.Go(func() { p.sendSnapshot(m, db, size) })
	}
	t.mu.RUnlock()
	if started {
		return
	}
	t.lg.Warn("no way to send a snapshot to the member", zap.String("remote-peer-id", formatID(m.GetTo())), zap.Error(db.Close()))
	t.cfg.Raft.ReportSnapshot(m.GetTo(), true)
}

func (p *peer) sendSnapshot(m *raftpb.Message, db io.ReadCloser, size int64) {
	start := clock.Real.Now()
	sm, to := &p.t.metrics.snapshotSend, formatID(p.id)
	sm.inflight.WithLabelValues(to).Inc()
	defer sm.inflight.WithLabelValues(to).Dec()
	lg := p.lg.With(zap.Uint64("snapshot-index", m.GetSnapshot().GetMetadata().GetIndex()), zap.Int64("bytes", size))
	lg.Info("sending database snapshot")

	total, err := p.postSnapshot(m, db, size)
	if err != nil {
		lg.Warn("failed to send database snapshot", zap.Error(err))
		sm.failures.WithLabelValues(to).Inc()
		if p.ctx.Err() == nil {
			p.status.deactivate("send snapshot", err)
		}
		p.undelivered(m)
		return
	}
	took := clock.Real.Now().Sub(start)
	lg.Info("sent database snapshot", zap.Duration("took", took))
	p.status.activate()
	p.sentBytes.Add(float64(total))
	sm.successes.WithLabelValues(to).Inc()
	sm.seconds.WithLabelValues(to).Observe(took.Seconds())
	p.t.cfg.Raft.ReportSnapshot(p.id, false)
}

func (p *peer) postSnapshot(m *raftpb.Message, db io.ReadCloser, size int64) (int64, error) {
	body, err := newSnapshotBody(m, db, size)
	if err != nil {
		return 0, errors.Join(err, db.Close())
	}
	total := int64(body.head.Len()) + size
	stop := context.AfterFunc(p.ctx, func() { p.awaitClosed(body) })
	defer stop()
	err = p.post(p.t.snapshotClient, snapshotPath, "application/octet-stream", body, total)
	p.awaitClosed(body)
	return total, err
}

// awaitClosed waits until the HTTP client has let go of the body, which it may do after it has returned, and does not return
// before a Read ends. A database whose Read does not end is closed under it.
func (p *peer) awaitClosed(body *snapshotBody) {
	timer := clock.Real.NewTimer(p.t.cfg.WriteTimeout)
	defer timer.Stop()
	select {
	case <-body.closed:
	case <-timer.C():
		_ = body.Close() // closing twice is harmless
	}
}
