package transport

import (
	"context"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// peer is another member: its two streams in each direction and its pipeline. One that is only a remote has just the
// pipeline.
type peer struct {
	t      *Transport
	id     uint64
	lg     *zap.Logger
	urls   *urlPicker
	status *status
	cut    atomic.Bool
	probed atomic.Pointer[Probe] // nil: not yet

	streams [streamKinds]*outgoing
	posts   chan *raftpb.Message

	sentBytes, receivedBytes, sentFailures, receivedFailures prometheus.Counter

	ctx    context.Context // ends when the peer is stopped
	cancel context.CancelFunc
	wg     sync.WaitGroup // its goroutines but for the HTTP handlers
}

// newPeer starts a peer. The caller holds t.mu.
func newPeer(t *Transport, id uint64, urls []*url.URL, streams bool) *peer {
	name := formatID(id)
	lg := t.lg.With(zap.String("remote-peer-id", name))
	p := &peer{
		t: t, id: id, lg: lg, urls: &urlPicker{urls: urls},
		status:           &status{lg: lg, metrics: t.metrics, local: formatID(t.cfg.ID), remote: name},
		posts:            make(chan *raftpb.Message, pipelineQueue),
		sentBytes:        t.metrics.sentBytes.WithLabelValues(name),
		receivedBytes:    t.metrics.receivedBytes.WithLabelValues(name),
		sentFailures:     t.metrics.sentFailures.WithLabelValues(name),
		receivedFailures: t.metrics.receivedFailures.WithLabelValues(name),
	}
	p.cut.Store(t.cuts[id])
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	for kind := range streamKinds {
		p.streams[kind] = &outgoing{kind: kind, peer: p}
	}
	for range pipelineWorkers {
		p.wg.Go(p.pipeline)
	}
	if streams {
		for kind := range streamKinds {
			p.wg.Go(func() { p.read(kind) })
		}
		p.wg.Go(p.probe)
	}
	lg.Info("started peer", zap.Bool("streams", streams), zap.Stringers("urls", urls))
	return p
}

// send queues a message on the best of the peer's ways.
func (p *peer) send(m *raftpb.Message) {
	if p.cut.Load() {
		return
	}
	typ := m.GetType()
	if typ == raftpb.MsgApp {
		switch p.streams[msgAppStream].send(m) {
		case queued:
			return
		case queueFull:
			p.refused(m, "msgapp stream")
			return
		}
	}
	if typ != raftpb.MsgSnap { // a large message would hold up the others
		switch p.streams[messageStream].send(m) {
		case queued:
			return
		case queueFull:
			p.refused(m, "message stream")
			return
		}
	}
	select {
	case p.posts <- m:
	default:
		p.refused(m, "pipeline")
	}
}

// stop ends the peer and returns when its goroutines have.
func (p *peer) stop() {
	p.cancel()
	for _, o := range p.streams {
		o.stop()
	}
	p.wg.Wait()
	p.status.stop()
	p.lg.Info("stopped peer")
}
