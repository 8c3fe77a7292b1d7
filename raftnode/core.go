package raftnode

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"go.uber.org/zap"
)

// core is the state of the loop. Only the loop goroutine touches it, and it never waits for a disk, a socket or another goroutine.
type core struct {
	n    *Node
	raft *raft.RawNode
	log  *logCache
	mail mail
	tick uint64

	// What raft said in its last Ready.
	lead, term, commit, last uint64
	state                    raft.StateType
	confState                *raftpb.ConfState

	props propQueue
	read  readState
	holds holds
	disk  diskWatch
	fetch fetches

	abstain abstention

	lastTick time.Time
}

func newCore(n *Node) (*core, error) {
	cfg := &n.cfg
	c := &core{n: n, log: newLogCache(cfg.Recovered, cfg.Limits.CacheBytes)}
	c.holds.byMember = map[uint64]hold{}
	c.log.onMiss, c.log.current = c.startFetch, c.snapshotMetadata
	c.read.id = rand.New(rand.NewPCG(cfg.Rand.Uint64(), uint64(cfg.Clock.Now().UnixNano()))).Uint64()
	if err := checkRecovered(cfg); err != nil {
		return nil, err
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID: cfg.ID, ElectionTick: cfg.Timing.ElectionTicks, HeartbeatTick: 1,
		Storage: c.log, AsyncStorageWrites: true,
		MaxSizePerMsg: cfg.Limits.MaxSizePerMsg, MaxCommittedSizePerReady: cfg.Limits.MaxApplyBytes,
		MaxInflightMsgs: cfg.Limits.MaxInflightMsgs, MaxInflightBytes: max(cfg.Limits.MaxInflightBytes, cfg.Limits.MaxSizePerMsg),
		CheckQuorum: true, PreVote: cfg.Timing.PreVote, StepDownOnRemoval: true,
		ReadOnlyOption: raft.ReadOnlySafe, Logger: newRaftLogger(cfg.Logger),
	})
	if err != nil {
		return nil, fmt.Errorf("raftnode: %w", err)
	}
	c.raft = rn
	if len(cfg.Peers) > 0 {
		if err := rn.Bootstrap(cfg.Peers); err != nil {
			return nil, fmt.Errorf("raftnode: bootstrap: %w", err)
		}
	}
	c.last = c.log.last
	c.term, c.commit = cfg.Recovered.HardState.GetTerm(), cfg.Recovered.HardState.GetCommit()
	t := tracker.ProgressTracker{Config: rn.Status().Config}
	c.confState = t.ConfState()
	return c, nil
}

// checkRecovered tells whether what the disk holds fits together; raft would panic.
func checkRecovered(cfg *Config) error {
	rec := &cfg.Recovered
	meta := rec.Snapshot.GetMetadata()
	last := meta.GetIndex()
	for _, e := range rec.Entries {
		if e.GetIndex() != last+1 {
			return fmt.Errorf("raftnode: recovered log: entry %d follows entry %d", e.GetIndex(), last)
		}
		last = e.GetIndex()
	}
	if hs := rec.HardState; !raft.IsEmptyHardState(hs) && (hs.GetCommit() < meta.GetIndex() || hs.GetCommit() > last) {
		return fmt.Errorf("raftnode: recovered log: commit index %d is outside [%d, %d]", hs.GetCommit(), meta.GetIndex(), last)
	}
	if cs := rec.confState(); meta.GetIndex() > 0 || len(cs.GetVoters()) > 0 {
		if err := checkConfState(cs); err != nil {
			return fmt.Errorf("raftnode: recovered snapshot at %d: %w", meta.GetIndex(), err)
		}
	}
	if len(cfg.Peers) > 0 && last > 0 {
		return errors.New("raftnode: Peers are for an empty log only")
	}
	return nil
}

func (c *core) run(ticks <-chan time.Time) {
	c.turn()
	for {
		select {
		case <-ticks:
			c.onTick()
		case <-c.n.inbox.wake:
		case <-c.n.quit:
			return
		}
		c.turn()
	}
}

// turn does all the work that has come in.
func (c *core) turn() {
	c.n.inbox.take(&c.mail)
	for i := range c.mail.appended {
		c.onAppended(&c.mail.appended[i])
	}
	for i := range c.mail.applied {
		c.onApplied(&c.mail.applied[i])
	}
	for _, f := range c.mail.calls {
		f(c)
	}
	for _, m := range c.mail.messages {
		c.step(m)
	}
	c.props.add(c.mail.props, c.tick)
	c.propose()
	c.startRead()
	c.drain()
}

// drain carries out all that raft wants done.
func (c *core) drain() {
	for c.raft.HasReady() {
		c.ready()
		c.propose()
		c.startRead()
	}
}

func (c *core) ready() {
	rd := c.raft.Ready()
	c.observe(rd)
	for _, rs := range rd.ReadStates {
		c.onReadState(rs)
	}
	out := rd.Messages[:0]
	var apply *raftpb.Message
	for _, m := range rd.Messages {
		switch {
		case m.GetTo() == raft.LocalAppendThread:
			c.disk.pending = append(c.disk.pending, c.tick)
			c.n.appender.jobs.push(appendJob{m: m})
		case m.GetTo() == raft.LocalApplyThread:
			apply = m
		case m.GetType() == raftpb.MsgSnap:
			c.sendSnapshot(m)
		default:
			if m.GetType() == raftpb.MsgHeartbeat {
				c.notePosition(m)
			}
			out = append(out, m)
		}
	}
	if len(out) > 0 {
		c.n.cfg.Transport.Send(out)
	}
	if apply != nil {
		c.n.applier.jobs.push(applyJob{m: apply})
	}
}

// observe takes note of what a Ready says of term, role, commit index and log.
func (c *core) observe(rd raft.Ready) {
	if k := len(rd.Entries); k > 0 {
		c.last = rd.Entries[k-1].GetIndex()
	} else if !raft.IsEmptySnap(rd.Snapshot) {
		c.last = rd.Snapshot.GetMetadata().GetIndex()
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		c.confState = rd.Snapshot.GetMetadata().GetConfState()
	}
	term := c.term
	if hs := rd.HardState; !raft.IsEmptyHardState(hs) {
		term = hs.GetTerm()
		if hs.GetCommit() != c.commit {
			c.commit = hs.GetCommit()
			c.n.pub.commit.Store(c.commit)
			c.n.metrics.committed.Set(float64(c.commit))
		}
	}
	lead, state := c.lead, c.state
	if rd.SoftState != nil {
		lead, state = rd.SoftState.Lead, rd.SoftState.RaftState
	}
	if term != c.term || lead != c.lead || state != c.state {
		c.roleChanged(lead, term, state)
	}
}

func (c *core) roleChanged(lead, term uint64, state raft.StateType) {
	p := &c.n.pub
	newLeader := lead != raft.None && (lead != c.lead || term != c.term)
	if term != c.term {
		c.read.maxPosition = 0
		c.props.uncommitted = 0
	}
	c.lead, c.term, c.state = lead, term, state
	c.props.hold = false
	c.disk.since = 0
	p.lead.Store(lead)
	p.term.Store(term)
	p.leader.Store(state == raft.StateLeader)
	c.publishStatus()
	setBool(c.n.metrics.hasLeader, lead != raft.None)
	setBool(c.n.metrics.isLeader, state == raft.StateLeader)
	if h := c.n.cfg.Hooks.Leadership; h != nil {
		h(lead, term, state == raft.StateLeader)
	}
	if newLeader {
		c.n.metrics.leaderChanges.Inc()
		c.readLeaderChanged()
		p.leaderChanged.notify()
	}
}

// step gives a peer's message to raft, if it makes sense.
func (c *core) step(m *raftpb.Message) {
	if err := c.checkAgainstState(m); err != nil {
		_ = c.n.refuse(m, err)
		return
	}
	switch m.GetType() {
	case raftpb.MsgProp:
		if !c.props.room(m.GetEntries(), c.n.cfg.Limits.MaxPendingBytes) {
			c.n.metrics.dropped.Inc()
			return
		}
	case raftpb.MsgApp:
		if len(m.GetEntries()) > 0 && c.overloaded() {
			return // as if the network had lost it: the leader will send it again
		}
	case raftpb.MsgTimeoutNow:
		if c.stalled() || c.abstains() {
			return // a member that cannot write its log is no candidate
		}
	}
	c.heard(m)
	err := c.raft.Step(m)
	switch {
	case err == nil:
		if m.GetType() == raftpb.MsgProp && c.state == raft.StateLeader {
			c.props.accepted(m.GetEntries())
		}
	case errors.Is(err, raft.ErrProposalDropped):
		c.n.metrics.dropped.Inc()
	case errors.Is(err, raft.ErrStepPeerNotFound): // late answers of a member that was removed
		c.n.lg.Debug("dropped a response from a member that is not known", zap.String("from", hex(m.GetFrom())), zap.Stringer("type", m.GetType()))
	default:
		c.n.lg.Warn("raft refused a message", zap.String("from", hex(m.GetFrom())), zap.Stringer("type", m.GetType()), zap.Error(err))
	}
}

// overloaded tells whether the state machine lags so far behind that no more entries should come in.
func (c *core) overloaded() bool {
	return c.state != raft.StateLeader && c.log.unappliedBytes() > c.n.cfg.Limits.MaxUnappliedBytes
}

// onAppended takes over what has become durable.
func (c *core) onAppended(a *appended) {
	if a.snapshot != nil {
		meta := a.snapshot.GetMetadata()
		c.log.reset(meta.GetIndex(), meta.GetTerm())
	}
	c.log.append(a.entries)
	c.disk.pending = c.disk.pending[:copy(c.disk.pending, c.disk.pending[a.done:])]
	for _, m := range a.responses {
		_ = c.raft.Step(m) // local messages; raft ignores those of an old term
	}
}

func (c *core) onApplied(a *applied) {
	for _, m := range a.responses {
		if c.state == raft.StateLeader {
			c.props.applied(m.GetEntries())
		}
		_ = c.raft.Step(m)
	}
	c.log.appliedTo(a.index)
}

func (c *core) applyConfChange(cc raftpb.ConfChangeI) {
	c.confState = c.raft.ApplyConfChange(cc)
	c.publishStatus()
}

// snapshotMetadata says what snapshot could be sent; its content is made when it is sent.
func (c *core) snapshotMetadata() (*raftpb.Snapshot, error) {
	index := min(c.log.applied, c.n.pub.applied.Load())
	term, err := c.log.Term(index)
	if index == 0 || err != nil || len(c.confState.GetVoters()) == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: c.confState}}, nil
}

// onTick advances the clock of everything that has one.
func (c *core) onTick() {
	c.tick++
	now := c.n.cfg.Clock.Now()
	if tick := c.n.cfg.Timing.Tick; tick > 0 && c.state == raft.StateLeader && !c.lastTick.IsZero() && now.Sub(c.lastTick) > 2*tick {
		c.n.metrics.heartbeatFailures.Inc()
		c.n.lg.Warn("a heartbeat is late; the process had no processor", zap.Duration("since-last", now.Sub(c.lastTick)), zap.Duration("interval", tick))
	}
	c.lastTick = now
	c.tickRaft()
	c.props.expire(c)
	c.props.hold = false
	c.tickRead()
	c.expireHolds()
	c.publishStatus()
	c.n.metrics.cacheBytes.Set(float64(c.log.bytes))
}

// tickRaft advances raft's clock. At a start with other members connected, all but two ticks of the first election
// timeout are skipped; the only voter of a cluster does not wait at all.
func (c *core) tickRaft() {
	t := &c.n.cfg.Timing
	switch {
	case c.stalled():
		c.onStall()
		return
	case c.abstains():
		if !c.abstainTick() {
			return
		}
	case c.lead == raft.None && c.state == raft.StateFollower && c.onlyVoter():
		_ = c.raft.Campaign()
	case t.InitialElectionTickAdvance && c.lead == raft.None && c.tick <= t.ticks(5*time.Second) && c.n.cfg.Transport.ActivePeers() > 1:
		for range t.ElectionTicks - 2 {
			c.raft.Tick()
		}
		t.InitialElectionTickAdvance = false
	}
	c.raft.Tick()
}

// transfer starts handing leadership to a member, and returns which; 0 if there is none.
func (c *core) transfer(to uint64) uint64 {
	if to == raft.None && c.state == raft.StateLeader {
		best := uint64(0)
		c.raft.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
			if id != c.n.cfg.ID && typ == raft.ProgressTypePeer && pr.RecentActive && (to == raft.None || pr.Match > best || pr.Match == best && id < to) {
				to, best = id, pr.Match
			}
		})
	}
	if to != raft.None {
		c.raft.TransferLeader(to)
	}
	return to
}

func (c *core) publishStatus() {
	s := &Status{
		ID: c.n.cfg.ID, Term: c.term, Lead: c.lead, Role: c.state, Commit: c.commit, FirstIndex: c.log.first, LastIndex: c.last,
		Voters: c.confState.GetVoters(), Learners: c.confState.GetLearners(), CacheBytes: c.log.bytes,
	}
	if c.state == raft.StateLeader {
		s.LeadTransferee = c.raft.BasicStatus().LeadTransferee
		s.Progress = make(map[uint64]Progress, len(s.Voters)+len(s.Learners))
		c.raft.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
			s.Progress[id] = Progress{Match: pr.Match, Next: pr.Next, State: pr.State, Learner: typ == raft.ProgressTypeLearner,
				Active: pr.RecentActive, PendingSnapshot: pr.PendingSnapshot}
		})
	}
	c.n.pub.status.Store(s)
}
