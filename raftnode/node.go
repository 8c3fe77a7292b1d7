package raftnode

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// Node is one member's part in consensus. See the package comment.
type Node struct {
	cfg     Config
	lg      *zap.Logger
	metrics *metrics

	inbox    *inbox
	core     *core
	appender *appender
	applier  *applier
	reads    reads
	waits    applyWaits
	pub      published

	start sync.Once
	quit  chan struct{} // closed by Stop and by a failure
	mu    sync.Mutex
	err   error
	ended bool
	group sync.WaitGroup // every goroutine of the node
}

// New makes a Node from what the disk holds, without starting it. With Config.Peers it bootstraps a new cluster.
func New(cfg Config) (*Node, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, lg: cfg.Logger, metrics: newMetrics(cfg.Registerer), inbox: newInbox(), quit: make(chan struct{})}
	n.reads.next = newRound()
	n.waits.init()
	n.pub.init(cfg)
	n.appender = newAppender(n)
	n.applier = newApplier(n)
	c, err := newCore(n)
	if err != nil {
		return nil, err
	}
	n.core = c
	return n, nil
}

// Start makes a Node and starts it.
func Start(cfg Config) (*Node, error) {
	n, err := New(cfg)
	if err != nil {
		return nil, err
	}
	n.Start()
	return n, nil
}

// Start starts the goroutines of a Node made by New. The state machine may be called from here on.
func (n *Node) Start() {
	n.start.Do(func() {
		var ticker clock.Ticker
		var ticks <-chan time.Time
		if n.cfg.Timing.Tick > 0 {
			ticker = n.cfg.Clock.NewTicker(n.cfg.Timing.Tick)
			ticks = ticker.C()
		}
		n.goRun(n.appender.run)
		n.goRun(n.applier.run)
		n.goRun(func() {
			if ticker != nil {
				defer ticker.Stop()
			}
			n.core.run(ticks)
		})
	})
}

// goRun runs f on a goroutine that Stop waits for; false if the node is stopping.
func (n *Node) goRun(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return false
	}
	n.group.Go(f)
	return true
}

// end begins the end: with an error if the node cannot go on.
func (n *Node) end(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return
	}
	n.ended, n.err = true, err
	if err != nil {
		n.lg.Error("the member stops taking part in consensus", zap.Error(err))
	}
	close(n.quit)
	n.inbox.close()
}

// Stop ends the node and returns when its goroutines have ended; the log is not closed. With Timing.TransferOnStop a
// leader hands over first, for as long as ctx allows and an election takes at most. Stop may be called again.
func (n *Node) Stop(ctx context.Context) error {
	if n.cfg.Timing.TransferOnStop && n.IsLeader() {
		limit := time.Duration(2*n.cfg.Timing.ElectionTicks) * n.cfg.Timing.Tick
		tctx, cancel := context.WithTimeout(ctx, max(limit, time.Millisecond))
		if err := n.TransferLeadership(tctx, raft.None); err != nil {
			n.lg.Info("leadership was not handed over before stopping", zap.Error(err))
		}
		cancel()
	}
	n.end(nil)
	n.group.Wait()
	return n.Err()
}

// Done is closed when the node has failed or is stopping.
func (n *Node) Done() <-chan struct{} { return n.quit }

// Err returns why the node ended by itself: a log that cannot be written, a snapshot that cannot be restored. nil
// while it runs and after a mere Stop.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// Tick advances the raft clock by one tick. It is for owners that set Timing.Tick to 0.
func (n *Node) Tick() { n.inbox.call((*core).onTick) }

// Propose queues data to be appended to the log and returns at once. That it returned nil promises nothing: the entry may
// still be lost with a leader. Errors: ErrQueueFull, ErrStopped. The node owns data from here on.
func (n *Node) Propose(data []byte) error {
	return n.inbox.propose(proposal{entry: &raftpb.Entry{Data: data}}, n.cfg.Limits.MaxPendingBytes)
}

// ProposeIn is Propose for what only the leader of a term may decide: data is dropped, silently, unless this member leads in
// that term when the loop takes it. It is never handed to another leader.
func (n *Node) ProposeIn(term uint64, data []byte) error {
	return n.inbox.propose(proposal{entry: &raftpb.Entry{Data: data}, term: term}, n.cfg.Limits.MaxPendingBytes)
}

// ProposeConfChange proposes a membership change and waits until the leader here has taken it or it is on its way to the
// leader elsewhere; as with Propose it may still be lost. Errors: ErrConfChangeRefused, ErrNoLeader (none appeared in time),
// ErrQueueFull, ErrStopped, ctx's.
func (n *Node) ProposeConfChange(ctx context.Context, cc raftpb.ConfChangeI) error {
	typ, data, err := raftpb.MarshalConfChange(cc)
	if err != nil {
		return fmt.Errorf("raftnode: encode membership change: %w", err)
	}
	reply := make(chan error, 1)
	p := proposal{entry: &raftpb.Entry{Type: typ.Enum(), Data: data}, reply: reply}
	if err := n.inbox.propose(p, n.cfg.Limits.MaxPendingBytes); err != nil {
		return err
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.quit:
		return ErrStopped
	}
}

// Step hands over a message from another member. A message that makes no sense is logged, dropped and reported as
// ErrBadMessage; nothing that a peer sends stops this process. The node owns m from here on.
func (n *Node) Step(_ context.Context, m *raftpb.Message) error {
	if err := checkMessage(n.cfg.ID, m); err != nil {
		return n.refuse(m, err)
	}
	if m.GetType() == raftpb.MsgSnap {
		if err := n.checkSnapshot(m.GetSnapshot()); err != nil {
			return n.refuse(m, err)
		}
	}
	return n.inbox.message(m)
}

func (n *Node) refuse(m *raftpb.Message, err error) error {
	n.metrics.refused.Inc()
	n.lg.Error("dropped a message that makes no sense",
		zap.Stringer("type", m.GetType()), zap.String("from", hex(m.GetFrom())), zap.String("to", hex(m.GetTo())),
		zap.Uint64("term", m.GetTerm()), zap.Uint64("index", m.GetIndex()), zap.Uint64("commit", m.GetCommit()),
		zap.Int("entries", len(m.GetEntries())), zap.Error(err))
	return fmt.Errorf("%w: %w", ErrBadMessage, err)
}

// ReportUnreachable tells that the last message to a member was not delivered.
func (n *Node) ReportUnreachable(id uint64) {
	n.inbox.call(func(c *core) { c.raft.ReportUnreachable(id) })
}

// ReportSnapshot tells how sending a snapshot to a member ended.
func (n *Node) ReportSnapshot(id uint64, failed bool) {
	n.inbox.call(func(c *core) { c.snapshotSent(id, failed) })
}

// ApplyConfChange makes a committed membership change effective and returns the membership after it. It is for
// StateMachine.Apply only. A change with NodeId 0 changes nothing. One that raft would not take (it would remove the last
// voter, say) is logged and changes nothing.
func (n *Node) ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState {
	return n.applier.confChange(cc)
}

// Campaign makes the member start an election now, if it may.
func (n *Node) Campaign() {
	n.inbox.call(func(c *core) { _ = c.raft.Campaign() })
}

// TransferLeadership hands leadership to a member and waits until it leads. With to 0 the member is chosen: the connected
// voter whose log is longest. A member that is not the leader asks the leader. Errors: ErrNoTransferee, ErrStopped, ctx's.
func (n *Node) TransferLeadership(ctx context.Context, to uint64) error {
	target := make(chan uint64, 1)
	if !n.inbox.call(func(c *core) { target <- c.transfer(to) }) {
		return ErrStopped
	}
	for asked := false; ; {
		changed := n.LeaderChanged()
		if asked && n.Lead() == to {
			return nil
		}
		select {
		case to = <-target:
			if asked = to != raft.None; !asked {
				return ErrNoTransferee
			}
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.quit:
			return ErrStopped
		}
	}
}

func hex(id uint64) string { return fmt.Sprintf("%x", id) }
