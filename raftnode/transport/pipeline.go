package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

const (
	pipelineWorkers = 4
	pipelineQueue   = 64
)

// pipeline posts messages one by one while there is no stream for them. Messages may overtake each other.
func (p *peer) pipeline() {
	for {
		select {
		case m := <-p.posts:
			p.postMessage(m)
		case <-p.ctx.Done():
			return
		}
	}
}

func (p *peer) postMessage(m *raftpb.Message) {
	body, err := proto.Marshal(m)
	if err == nil {
		err = p.post(p.t.postClient, raftPath, "application/protobuf", bytes.NewReader(body), int64(len(body)))
	}
	isSnapshot := m.GetType() == raftpb.MsgSnap
	switch {
	case err == nil:
		p.status.activate()
		p.sentBytes.Add(float64(len(body)))
		if isSnapshot {
			p.t.cfg.Raft.ReportSnapshot(p.id, false)
		}
	case p.ctx.Err() == nil:
		p.status.deactivate("post", err)
		p.undelivered(m)
	}
}

// post sends a request and waits for the answer.
func (p *peer) post(client *RoundTripper, path, contentType string, body io.Reader, size int64) error {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	u := p.urls.pick()
	target := *u
	target.Path += path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), body)
	if err != nil {
		return err
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", contentType)
	p.t.setHeaders(req.Header)
	resp, err := client.RoundTrip(req)
	if err != nil {
		p.urls.failed(u)
		return err
	}
	defer resp.Body.Close()
	var text string
	p.t.within(cancel, func() { text = errorText(resp.Body) })
	if err = answerError(resp.StatusCode, text, u); err != nil {
		p.urls.failed(u)
		if errors.Is(err, ErrMemberRemoved) {
			p.t.setRemoved(p.id)
		}
	}
	return err
}

// undelivered tells Raft that a message to the peer was lost.
func (p *peer) undelivered(m *raftpb.Message) {
	p.lost()
	if m.GetType() == raftpb.MsgSnap {
		p.t.cfg.Raft.ReportSnapshot(p.id, true)
	}
}

// lost tells Raft that something sent to the peer may be lost.
func (p *peer) lost() {
	p.sentFailures.Inc()
	p.t.cfg.Raft.ReportUnreachable(p.id)
}

// refused is called for a message that finds its queue full.
func (p *peer) refused(m *raftpb.Message, queue string) {
	p.lg.Warn("dropped a message: too many are waiting", zap.Stringer("type", m.GetType()), zap.String("queue", queue),
		zap.Bool("active", !p.status.activeSince().IsZero()))
	p.undelivered(m)
}
