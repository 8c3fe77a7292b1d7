package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
)

// maxRemotes bounds the members that are known only from what they say of themselves.
const maxRemotes = 64

// Handler serves the paths under /raft. The server must let it set deadlines and flush (net/http does, over HTTP/1), and
// must not put deadlines on connections itself.
func (t *Transport) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(raftPath, t.guard(http.MethodPost, t.servePost))
	mux.HandleFunc(snapshotPath, t.guard(http.MethodPost, t.serveSnapshot))
	mux.HandleFunc(streamPath+"/", t.guard(http.MethodGet, t.serveStream))
	mux.HandleFunc(probingPath, serveProbing)
	return mux
}

// setDeadline sets a deadline, where there is such a thing.
func setDeadline(set func(time.Time) error, d time.Duration) error {
	if err := set(clock.Real.Now().Add(d)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// guard lets requests of members with the same cluster and a fitting version through, and ends them when the transport
// stops.
func (t *Transport) guard(method string, serve func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			w.Header().Set("Allow", method)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		if !t.checkHeaders(w, r) {
			return
		}
		if !t.enter() {
			http.Error(w, errStopped.Error(), http.StatusServiceUnavailable)
			return
		}
		defer t.handlers.Done()
		from, err := parseID(r.Header.Get(headerFrom))
		if err == nil && t.isCut(from) {
			http.Error(w, errCut.Error(), http.StatusServiceUnavailable)
			return
		}
		serve(w, r)
	}
}

// timedBody is the body of a request, each part of which must come in time, and none after the transport has stopped.
type timedBody struct {
	t       *Transport
	r       io.Reader
	rc      *http.ResponseController
	timeout time.Duration
	stop    func() bool
}

func (t *Transport) timedBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) *timedBody {
	b := &timedBody{t: t, r: r.Body, rc: http.NewResponseController(w), timeout: timeout}
	b.stop = context.AfterFunc(t.ctx, func() { _ = b.rc.SetReadDeadline(clock.Real.Now()) })
	return b
}

// Read implements io.Reader.
func (b *timedBody) Read(p []byte) (int, error) {
	if err := setDeadline(b.rc.SetReadDeadline, b.timeout); err != nil {
		return 0, err
	}
	if b.t.ctx.Err() != nil {
		return 0, errStopped
	}
	return b.r.Read(p)
}

// complete takes the deadline off the connection: what comes next is the answer, and it may take its time. After a failure
// the deadline stays, since the server reads on for a while to be able to use the connection again.
func (b *timedBody) complete() {
	b.stop()
	_ = b.rc.SetReadDeadline(time.Time{}) // a connection that is broken shows when it is used
}

// servePost takes a single message.
func (t *Transport) servePost(w http.ResponseWriter, r *http.Request) {
	t.addRemoteFrom(r)
	body := t.timedBody(w, r, t.cfg.ReadTimeout)
	defer body.stop()
	b, err := io.ReadAll(io.LimitReader(body, maxMessageBytes+1))
	m := &raftpb.Message{}
	if err == nil && len(b) > maxMessageBytes {
		err = ErrTooLarge
	}
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err != nil {
		t.badRequest(w, r, "error reading raft message", err)
		return
	}
	body.complete()
	t.metrics.receivedBytes.WithLabelValues(t.label(m.GetFrom())).Add(float64(len(b)))
	if err := t.step(m); err != nil {
		t.stepFailed(w, m, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// stepFailed answers a message that Raft or the transport did not take.
func (t *Transport) stepFailed(w http.ResponseWriter, m *raftpb.Message, err error) {
	t.lg.Warn("message of peer not taken", zap.String("from", formatID(m.GetFrom())), zap.Stringer("type", m.GetType()), zap.Error(err))
	code, text := http.StatusInternalServerError, "error processing raft message"
	if errors.Is(err, errFromRemoved) || errors.Is(err, errWrongMember) {
		code, text = http.StatusForbidden, err.Error()
	}
	w.Header().Set("Connection", "close") // as etcd: the next message finds another way, or a new start
	http.Error(w, text, code)
}

func (t *Transport) badRequest(w http.ResponseWriter, r *http.Request, text string, err error) {
	t.lg.Warn("request of a peer makes no sense", zap.String("path", r.URL.Path), zap.String("remote", r.RemoteAddr), zap.Error(err))
	from, _ := parseID(r.Header.Get(headerFrom)) // 0 counts as unknown
	t.metrics.receivedFailures.WithLabelValues(t.label(from)).Inc()
	http.Error(w, text, http.StatusBadRequest)
}

// serveSnapshot takes a message and the database after it.
func (t *Transport) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	t.addRemoteFrom(r)
	start := clock.Real.Now()
	sm := &t.metrics.snapshotReceive
	body := t.timedBody(w, r, t.cfg.SnapshotStall)
	defer body.stop()
	m, n, err := newMessageDecoder(body, maxSnapshotMessageBytes).decode()
	switch {
	case err != nil:
	case m.GetType() != raftpb.MsgSnap:
		err = fmt.Errorf("transport: a %s comes with a database", m.GetType())
	case m.GetSnapshot().GetMetadata().GetIndex() == 0:
		err = errors.New("transport: a snapshot without metadata")
	}
	if err != nil {
		sm.failures.WithLabelValues(t.label(0)).Inc()
		t.badRequest(w, r, "failed to decode raft message: "+err.Error(), err)
		return
	}
	from := t.label(m.GetFrom())
	sm.inflight.WithLabelValues(from).Inc()
	defer sm.inflight.WithLabelValues(from).Dec()
	size, err := t.receiveSnapshot(m, body)
	t.metrics.receivedBytes.WithLabelValues(from).Add(float64(int64(n) + size))
	if err != nil {
		sm.failures.WithLabelValues(from).Inc()
		t.stepFailed(w, m, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
	sm.successes.WithLabelValues(from).Inc()
	sm.seconds.WithLabelValues(from).Observe(clock.Real.Now().Sub(start).Seconds())
}

// receiveSnapshot saves the database and hands the message to Raft. It returns how many bytes came.
func (t *Transport) receiveSnapshot(m *raftpb.Message, body *timedBody) (int64, error) {
	if err := t.admit(m); err != nil { // before gigabytes are written
		return 0, err
	}
	lg := t.lg.With(zap.String("from", formatID(m.GetFrom())), zap.Uint64("snapshot-index", m.GetSnapshot().GetMetadata().GetIndex()))
	lg.Info("receiving database snapshot")
	size, err := t.cfg.Snapshots.SaveDB(body, m.GetSnapshot().GetMetadata().GetIndex())
	if err != nil {
		return size, fmt.Errorf("transport: save database: %w", err)
	}
	body.complete()
	lg.Info("received and saved database snapshot", zap.Int64("bytes", size))
	return size, t.step(m)
}

// serveStream sends this member's messages to the peer that asks for them.
func (t *Transport) serveStream(w http.ResponseWriter, r *http.Request) {
	name, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, streamPath+"/"), "/")
	var kind streamKind
	switch name {
	case msgAppStream.String():
		kind = msgAppStream
	case messageStream.String():
		kind = messageStream
	default:
		http.Error(w, "invalid path", http.StatusNotFound)
		return
	}
	from, err := parseID(id)
	if err != nil {
		http.Error(w, "invalid from", http.StatusNotFound)
		return
	}
	if t.cfg.Raft.IsIDRemoved(from) {
		t.lg.Warn("refused a stream to a removed member", zap.String("from", formatID(from)))
		http.Error(w, "removed member", http.StatusGone)
		return
	}
	p := t.peer(from)
	if p == nil {
		// The member may have joined after what this one has seen: be able to answer it.
		t.addRemote(from, r.Header.Get(headerPeerURLs))
		t.lg.Warn("refused a stream to an unknown member", zap.String("from", formatID(from)))
		http.Error(w, "error sender not found", http.StatusNotFound)
		return
	}
	if to := r.Header.Get(headerTo); to != formatID(t.cfg.ID) {
		t.lg.Warn("refused a stream meant for another member", zap.String("from", formatID(from)), zap.String("to", to))
		http.Error(w, "to field mismatch", http.StatusPreconditionFailed)
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // nothing more is read; a server's deadline would end the stream
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		t.lg.Warn("cannot serve a stream", zap.Error(err))
		return
	}
	p.streams[kind].serve(r.Context(), w, rc)
}

// addRemoteFrom makes the sender of a request a remote if it is not known.
func (t *Transport) addRemoteFrom(r *http.Request) {
	if from, err := parseID(r.Header.Get(headerFrom)); err == nil {
		t.addRemote(from, r.Header.Get(headerPeerURLs))
	}
}

func (t *Transport) addRemote(id uint64, urls string) {
	if urls == "" || id == 0 || id == t.cfg.ID || t.known(id) || t.cfg.Raft.IsIDRemoved(id) {
		return
	}
	parsed, err := parseURLs(strings.Split(urls, ","))
	if err != nil {
		t.lg.Warn("unknown member with malformed peer URLs", zap.String("from", formatID(id)), zap.Error(err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.remotes) < maxRemotes {
		t.startRemote(id, parsed)
	}
}
