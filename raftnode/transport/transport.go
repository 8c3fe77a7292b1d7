package transport

import (
	"context"
	"net/url"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Transport is a member's side of the peer protocol.
type Transport struct {
	cfg     Config
	lg      *zap.Logger
	metrics *metrics

	streamClient, postClient, snapshotClient *RoundTripper

	ctx     context.Context // ends when the transport stops
	cancel  context.CancelFunc
	removed chan struct{} // closed once a peer says that this member is removed

	mu       sync.RWMutex
	stopped  bool
	peers    map[uint64]*peer
	remotes  map[uint64]*peer // pipelines to members that are not peers (yet)
	cuts     map[uint64]bool
	handlers sync.WaitGroup // running HTTP handlers; added to under mu while not stopped

	removedOnce sync.Once
}

// New returns a transport without peers.
func New(cfg Config) (*Transport, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if len(cfg.LocalURLs) > 0 {
		if _, err := parseURLs(cfg.LocalURLs); err != nil {
			return nil, err
		}
	}
	cfg.LocalURLs = slices.Clone(cfg.LocalURLs)
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	t := &Transport{
		cfg: cfg, lg: sampled(cfg.Logger), metrics: m, removed: make(chan struct{}),
		peers: map[uint64]*peer{}, remotes: map[uint64]*peer{}, cuts: map[uint64]bool{},
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.streamClient = t.roundTripper(cfg.ReadTimeout, cfg.WriteTimeout, cfg.ReadTimeout, -1)
	t.postClient = t.roundTripper(0, cfg.WriteTimeout, cfg.ReadTimeout, 2*pipelineWorkers)
	t.snapshotClient = t.roundTripper(0, cfg.SnapshotStall, cfg.SnapshotAnswer, -1)
	return t, nil
}

// Send queues messages for the members that they name, in order for each as long as its way stays the same. It never
// blocks: messages to unknown members and to members whose queue is full are dropped. The messages are not changed, and
// read until they are sent.
func (t *Transport) Send(msgs []*raftpb.Message) {
	for _, m := range msgs {
		if m.GetTo() == 0 {
			continue // dropped on purpose
		}
		if p := t.sendable(m.GetTo()); p != nil {
			p.send(m)
		} else {
			t.lg.Debug("dropped a message to an unknown member", zap.Stringer("type", m.GetType()), zap.String("to", formatID(m.GetTo())))
		}
	}
}

// sendable returns the peer or remote with an ID, nil if there is none.
func (t *Transport) sendable(id uint64) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.peers[id]; p != nil {
		return p
	}
	return t.remotes[id]
}

func (t *Transport) peer(id uint64) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers[id]
}

func (t *Transport) known(id uint64) bool { return t.sendable(id) != nil }

// label returns an ID as the value of a label: only known members get their own.
func (t *Transport) label(id uint64) string {
	if t.known(id) {
		return formatID(id)
	}
	return "unknown"
}

// ActivePeers returns the number of peers that were last heard of with success.
func (t *Transport) ActivePeers() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := 0
	for _, p := range t.peers {
		if !p.status.activeSince().IsZero() {
			n++
		}
	}
	return n
}

// ActiveSince returns since when a peer has been active, the zero time if it is not.
func (t *Transport) ActiveSince(id uint64) time.Time {
	if p := t.peer(id); p != nil {
		return p.status.activeSince()
	}
	return time.Time{}
}

// Removed is closed once another member has said that this one is removed from the cluster.
func (t *Transport) Removed() <-chan struct{} { return t.removed }

func (t *Transport) setRemoved(by uint64) {
	t.removedOnce.Do(func() {
		t.lg.Error("a peer says that this member has been removed from the cluster", zap.String("remote-peer-id", formatID(by)))
		close(t.removed)
	})
}

// parse logs URLs that nothing can be sent to. They come from the cluster's membership, which was checked before.
func (t *Transport) parse(id uint64, raw []string) ([]*url.URL, bool) {
	urls, err := parseURLs(raw)
	if err != nil {
		t.lg.Error("cannot reach a member", zap.String("remote-peer-id", formatID(id)), zap.Strings("urls", raw), zap.Error(err))
	}
	return urls, err == nil
}

// AddPeer starts talking to a member. It does nothing for a known one.
func (t *Transport) AddPeer(id uint64, raw []string) {
	urls, ok := t.parse(id, raw)
	if !ok || id == t.cfg.ID {
		return
	}
	t.mu.Lock()
	remote := t.remotes[id]
	if !t.stopped && t.peers[id] == nil {
		t.peers[id] = newPeer(t, id, urls, true)
		delete(t.remotes, id)
	} else {
		remote = nil
	}
	t.mu.Unlock()
	if remote != nil {
		remote.stop()
	}
}

// AddRemote makes a member reachable by single requests, so that it can be told where the cluster is. It does nothing for
// a known one.
func (t *Transport) AddRemote(id uint64, raw []string) {
	urls, ok := t.parse(id, raw)
	if !ok || id == t.cfg.ID {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.startRemote(id, urls)
}

// startRemote is AddRemote under mu.
func (t *Transport) startRemote(id uint64, urls []*url.URL) {
	if !t.stopped && t.peers[id] == nil && t.remotes[id] == nil {
		t.remotes[id] = newPeer(t, id, urls, false)
	}
}

// UpdatePeer changes the URLs of a peer. Open streams stay.
func (t *Transport) UpdatePeer(id uint64, raw []string) {
	urls, ok := t.parse(id, raw)
	if !ok {
		return
	}
	if p := t.peer(id); p != nil {
		p.urls.update(urls)
		p.lg.Info("changed the URLs of peer", zap.Stringers("urls", urls))
	}
}

// RemovePeer stops talking to a member. It must not be called from within Step.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	gone := []*peer{t.peers[id], t.remotes[id]}
	delete(t.peers, id)
	delete(t.remotes, id)
	t.mu.Unlock()
	stopAll(gone)
}

// RemoveAllPeers stops talking to all members. It must not be called from within Step.
func (t *Transport) RemoveAllPeers() {
	t.mu.Lock()
	gone := t.forgetAll()
	t.mu.Unlock()
	stopAll(gone)
}

// forgetAll empties the maps under mu and returns what was in them.
func (t *Transport) forgetAll() []*peer {
	var gone []*peer
	for _, m := range []map[uint64]*peer{t.peers, t.remotes} {
		for _, p := range m {
			gone = append(gone, p)
		}
		clear(m)
	}
	return gone
}

func stopAll(peers []*peer) {
	var wg sync.WaitGroup
	for _, p := range peers {
		if p != nil {
			wg.Go(p.stop)
		}
	}
	wg.Wait()
}

// enter reports whether a handler may run, and counts it.
func (t *Transport) enter() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.stopped {
		return false
	}
	t.handlers.Add(1)
	return true
}

// Stop ends all connections and returns when nothing of the transport runs any more: no method of Raft is called after
// that. Requests that still come are refused. It must not be called from within Step.
func (t *Transport) Stop() {
	t.mu.Lock()
	t.stopped = true
	gone := t.forgetAll()
	t.mu.Unlock()
	t.cancel()
	stopAll(gone)
	t.handlers.Wait()
	for _, c := range []*RoundTripper{t.streamClient, t.postClient, t.snapshotClient} {
		c.CloseIdleConnections()
	}
}

// sampled drops what is said again and again: a stranger that knocks ten times a second must not fill the disk.
func sampled(lg *zap.Logger) *zap.Logger {
	return lg.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, 10*time.Second, 30, 0)
	}))
}

// Cut drops everything from and to a member until Mend. It is for tests.
func (t *Transport) Cut(id uint64) { t.setCut(id, true) }

// Mend undoes Cut.
func (t *Transport) Mend(id uint64) { t.setCut(id, false) }

func (t *Transport) setCut(id uint64, cut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cuts[id] = cut
	for _, p := range []*peer{t.peers[id], t.remotes[id]} {
		if p != nil {
			p.cut.Store(cut)
		}
	}
}

func (t *Transport) isCut(id uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.cuts[id]
}
