package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	raftPath     = "/raft"
	probingPath  = raftPath + "/probing"
	streamPath   = raftPath + "/stream"
	snapshotPath = raftPath + "/snapshot"
)

// streamKind tells the two streams apart.
type streamKind int

const (
	msgAppStream  streamKind = iota // appends, in the short form
	messageStream                   // all else
	streamKinds
)

// String is the last part of the stream's path but for the ID.
func (k streamKind) String() string {
	if k == msgAppStream {
		return "msgapp"
	}
	return "message"
}

func (k streamKind) path() string { return streamPath + "/" + k.String() }

func (k streamKind) encoder() encoder {
	if k == msgAppStream {
		return &msgAppEncoder{}
	}
	return messageEncoder{}
}

func (k streamKind) decoder(r io.Reader, from, to uint64) decoder {
	if k == msgAppStream {
		return newMsgAppDecoder(r, from, to)
	}
	return newMessageDecoder(r, maxMessageBytes)
}

// read keeps a stream from the peer open and hands its messages to Raft, until the peer is stopped.
func (p *peer) read(kind streamKind) {
	retry := p.t.cfg.RetryInterval
	timer := clock.Real.NewTimer(retry)
	defer timer.Stop()
	for {
		timer.Reset(retry) // from the start of a dial, so that a stream that was up is opened again at once
		if err := p.readOnce(kind); p.ctx.Err() == nil && !errors.Is(err, io.EOF) {
			p.status.deactivate("read "+kind.String()+" stream", err)
		}
		select {
		case <-timer.C():
		case <-p.ctx.Done():
			return
		}
	}
}

// readOnce opens a stream and reads it to its end. io.EOF means that the peer ended it in order.
func (p *peer) readOnce(kind streamKind) error {
	body, err := p.dial(kind)
	if err != nil {
		return err
	}
	defer body.Close()
	p.status.activate()
	p.lg.Info("opened a stream from peer", zap.Stringer("stream", kind))
	dec := kind.decoder(bufio.NewReaderSize(body, 64<<10), p.id, p.t.cfg.ID)
	for {
		m, n, err := dec.decode()
		if err != nil {
			p.lg.Info("stream from peer ended", zap.Stringer("stream", kind), zap.Error(err))
			return err
		}
		p.receivedBytes.Add(float64(n))
		if p.cut.Load() || isLinkHeartbeat(m) {
			continue
		}
		if err := p.t.step(m); err != nil {
			p.receivedFailures.Inc()
			p.lg.Debug("message of peer not taken", zap.Stringer("type", m.GetType()), zap.Error(err))
		}
	}
}

// dial asks the peer for a stream.
func (p *peer) dial(kind streamKind) (io.ReadCloser, error) {
	u := p.urls.pick()
	target := *u
	target.Path += kind.path() + "/" + formatID(p.t.cfg.ID)
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	p.t.setHeaders(req.Header)
	req.Header.Set(headerTo, formatID(p.id))
	resp, err := p.t.streamClient.RoundTrip(req)
	if err != nil {
		p.urls.failed(u)
		return nil, err
	}
	if err := p.streamError(resp); err != nil {
		resp.Body.Close()
		p.urls.failed(u)
		return nil, err
	}
	return resp.Body, nil
}

// streamError is the error that the answer to the request for a stream stands for, nil for a stream.
func (p *peer) streamError(resp *http.Response) error {
	theirs, err := parseRelease(resp.Header.Get(headerVersion))
	switch {
	case err != nil:
		return err
	case theirs.before(release{2, 1}):
		return fmt.Errorf("transport: peers of version %d.%d have no such stream", theirs.major, theirs.minor)
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	text := errorText(resp.Body)
	switch {
	case resp.StatusCode == http.StatusGone:
		p.t.setRemoved(p.id)
		return ErrMemberRemoved
	case resp.StatusCode == http.StatusPreconditionFailed && text == ErrClusterIDMismatch.Error():
		return fmt.Errorf("%w: the peer's is %s", ErrClusterIDMismatch, resp.Header.Get(headerClusterID))
	case resp.StatusCode == http.StatusPreconditionFailed && text == ErrIncompatibleVersion.Error():
		return fmt.Errorf("%w: the peer's is %s", ErrIncompatibleVersion, resp.Header.Get(headerVersion))
	}
	return fmt.Errorf("transport: peer answered %d: %q", resp.StatusCode, text)
}

// admit checks that a message is meant for this member and does not come from a removed one.
func (t *Transport) admit(m *raftpb.Message) error {
	switch {
	case t.cfg.Raft.IsIDRemoved(m.GetFrom()):
		return errFromRemoved
	case m.GetTo() != t.cfg.ID:
		return errWrongMember
	}
	return nil
}

// step hands an admissible message to Raft.
func (t *Transport) step(m *raftpb.Message) error {
	if err := t.admit(m); err != nil {
		return err
	}
	return t.cfg.Raft.Step(t.ctx, m)
}

// within runs f; if it takes longer than the timeout of an answer, ctx's cancel is called.
func (t *Transport) within(cancel context.CancelFunc, f func()) {
	timeout, done := context.WithTimeout(context.Background(), t.cfg.ReadTimeout)
	defer done()
	stop := context.AfterFunc(timeout, func() {
		if errors.Is(timeout.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})
	defer stop()
	f()
}
