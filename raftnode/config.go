package raftnode

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/clock"
)

// StateMachine is what the log is applied to. All methods are called from the apply goroutine, one at a time, except for
// the functions that they return.
type StateMachine interface {
	// Apply executes a batch of committed entries in order: normal ones, empty ones (a new leader's first) and membership
	// changes. Entries that the state machine has already seen (after a restart, up to its own consistent index) come
	// again and must not change it again. For every entry of type EntryConfChange or EntryConfChangeV2, also for one
	// already seen, Apply must call Node.ApplyConfChange; with a NodeId of 0 when it refuses the change.
	Apply(ents []*raftpb.Entry)
	// Restore replaces the state by the received snapshot, whose .snap file, log marker and .snap.db file are durable.
	// An error stops the node: a member without state cannot go on.
	Restore(snap *raftpb.Snapshot) error
	// Snapshot returns the Data of the .snap file for the state at index, which is what Apply was last given, and a
	// function that makes that state durable. The node calls persist from another goroutine while Apply goes on; it must
	// return only when everything up to index (later too, if convenient) would survive a power cut. Restore is not called
	// before persist has returned.
	Snapshot(index uint64) (data []byte, persist func() error, err error)
	// OpenDB opens a consistent copy of the state for a follower that cannot be served from the log. The copy holds
	// exactly what Apply was given so far. data is the Data of the snapshot message, as in Snapshot.
	// The node reads the copy from another goroutine and closes it.
	OpenDB() (db io.ReadCloser, size int64, data []byte, err error)
}

// Transport carries messages to the other members. No method blocks.
type Transport interface {
	// Send sends messages to the members that they name, in order for each, or drops them.
	// The messages and their entries are shared with the log and must not be changed.
	Send(msgs []*raftpb.Message)
	// SendSnapshot sends a MsgSnap together with size bytes of the database and closes db, whatever happens.
	// It must call Node.ReportSnapshot once it is known whether the member took it.
	SendSnapshot(m *raftpb.Message, db io.ReadCloser, size int64)
	// ActivePeers returns the number of members that are connected now.
	ActivePeers() int
}

// Log is the write-ahead log as the node uses it; *wal.Log is one. Save, SaveSnapshot and ReleaseTo are called from one
// goroutine, Entries from others at the same time.
type Log interface {
	Save(hs *raftpb.HardState, ents []*raftpb.Entry, mustSync bool) error
	SaveSnapshot(marker *walpb.Snapshot) error
	Sync() error
	ReleaseTo(index uint64) error
	Entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error)
}

// Snapshots keeps the snapshot files; *snap.Dir is one.
type Snapshots interface {
	Save(snap *raftpb.Snapshot) error
	DBPath(index uint64) (string, error)
	ReleaseDBs(before uint64) error
}

// Config is what a Node is made of. Zero values of the optional fields mean the default named beside them.
type Config struct {
	ID    uint64
	Peers []raft.Peer // the first members; only for the very first start of a new cluster, nil otherwise

	Recovered Recovered // what the disk holds; the zero value for an empty log
	Log       Log
	Snapshots Snapshots

	StateMachine StateMachine
	Transport    Transport

	Timing Timing
	Limits Limits
	Hooks  Hooks

	Clock      clock.Clock           // nil: the real one
	Rand       rand.Source           // nil: seeded from ID; numbers the read requests
	Logger     *zap.Logger           // nil: none
	Registerer prometheus.Registerer // nil: none
}

// Recovered is the durable state that a member starts from.
type Recovered struct {
	HardState *raftpb.HardState // nil for an empty log
	Entries   []*raftpb.Entry   // all entries after Snapshot, in order
	Snapshot  *raftpb.Snapshot  // the snapshot that the log was opened at; nil for none
	// Applied is the index that the state machine already holds. Entries up to it are still given to Apply, but no
	// follower gets a copy of the state before they have been.
	Applied uint64
	// ConfState is the membership to start with instead of Snapshot's, if not nil. It is for a state machine that keeps the
	// membership itself, as of Applied; Apply then passes the changes up to Applied to ApplyConfChange with NodeId 0.
	ConfState *raftpb.ConfState
}

// confState returns the membership to start with, never nil.
func (r *Recovered) confState() *raftpb.ConfState {
	cs := r.ConfState
	if cs == nil {
		cs = r.Snapshot.GetMetadata().GetConfState()
	}
	if cs == nil {
		cs = &raftpb.ConfState{}
	}
	return proto.Clone(cs).(*raftpb.ConfState)
}

// Timing holds the raft clock. One tick is one heartbeat interval.
type Timing struct {
	Tick                       time.Duration // 0: no ticker; the owner calls Node.Tick (simulation)
	ElectionTicks              int           // 10
	PreVote                    bool
	InitialElectionTickAdvance bool          // on a start with other members, all but two ticks of the first election timeout are skipped once connected
	ReadTimeout                time.Duration // 7s: how long a read round may take before its readers get ErrTimeout or ErrLeaderChanged
	ReadRetry                  time.Duration // 500ms: a read round without an answer is asked again
	ProposalTimeout            time.Duration // 7s: a proposal that found no leader for so long is dropped
	SnapshotHold               time.Duration // 30s: how long after a snapshot was sent its follower-up entries are kept
	TransferOnStop             bool          // Stop hands leadership to another member first
}

// Limits bounds memory and disk.
type Limits struct {
	SnapshotCount          uint64 // 10000: a snapshot every so many applied entries
	SnapshotBytes          uint64 // 512 MiB: or every so many bytes of entries
	SnapshotCatchUpEntries uint64 // 5000: entries before the snapshot that are kept for slow followers
	CacheBytes             uint64 // 32 MiB: entries in memory; older ones that are still in the log are read from disk
	MaxSizePerMsg          uint64 // 1 MiB: entries of one append message
	MaxInflightMsgs        int    // 512: append messages in flight to one follower
	MaxInflightBytes       uint64 // 64 MiB: their bytes
	MaxPendingBytes        uint64 // 128 MiB: proposals that wait for the loop, and again entries that wait to be committed
	MaxApplyBytes          uint64 // 64 MiB: committed entries handed to the state machine and not yet applied
	MaxUnappliedBytes      uint64 // 256 MiB: a follower whose state machine lags by more refuses entries until it has caught up
}

// Hooks are called by the node on its loop; they must return at once and must not call the node back.
type Hooks struct {
	// Leadership tells of every change of role, leader or term.
	Leadership func(lead, term uint64, isLeader bool)
	// CheckSnapshot looks at a received snapshot and its database before raft accepts it; an error drops the message.
	// It is called from Step, not from the loop, and may take its time. nil accepts.
	CheckSnapshot func(snap *raftpb.Snapshot) error
}

// Errors of this package. They are returned as they are or wrapped.
var (
	ErrStopped       = errors.New("raftnode: stopped")
	ErrQueueFull     = errors.New("raftnode: too many proposals in flight")
	ErrTimeout       = errors.New("raftnode: timed out")
	ErrLeaderChanged = errors.New("raftnode: leader changed")
	ErrNoLeader      = errors.New("raftnode: no leader")
	ErrNoTransferee  = errors.New("raftnode: no member to transfer leadership to")
	ErrBadMessage    = errors.New("raftnode: message refused")
	ErrBusy          = errors.New("raftnode: too many messages waiting")
	// ErrConfChangeRefused says that the leader did not accept a membership change because another one is under way.
	ErrConfChangeRefused = errors.New("raftnode: membership change refused: another one is not yet applied")
)

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (c *Config) fill() error {
	switch {
	case c.ID == raft.None || raft.IsLocalMsgTarget(c.ID):
		return fmt.Errorf("raftnode: member id %x is reserved", c.ID)
	case c.Log == nil || c.Snapshots == nil || c.StateMachine == nil || c.Transport == nil:
		return errors.New("raftnode: Log, Snapshots, StateMachine and Transport are required")
	}
	t, l := &c.Timing, &c.Limits
	orDefault(&t.ElectionTicks, 10)
	orDefault(&t.ReadTimeout, 7*time.Second)
	orDefault(&t.ReadRetry, 500*time.Millisecond)
	orDefault(&t.ProposalTimeout, 7*time.Second)
	orDefault(&t.SnapshotHold, 30*time.Second)
	orDefault(&l.SnapshotCount, 10000)
	orDefault(&l.SnapshotBytes, 512<<20)
	orDefault(&l.SnapshotCatchUpEntries, 5000)
	orDefault(&l.CacheBytes, 32<<20)
	orDefault(&l.MaxSizePerMsg, 1<<20)
	orDefault(&l.MaxInflightMsgs, 512)
	orDefault(&l.MaxInflightBytes, 64<<20)
	orDefault(&l.MaxPendingBytes, 128<<20)
	orDefault(&l.MaxApplyBytes, 64<<20)
	orDefault(&l.MaxUnappliedBytes, 256<<20)
	if t.ElectionTicks < 2 {
		return fmt.Errorf("raftnode: an election timeout of %d ticks is too short", t.ElectionTicks)
	}
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Rand == nil {
		c.Rand = rand.NewPCG(c.ID, 0)
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return nil
}

// ticks converts a duration into ticks, at least one. Without a ticker a tick counts as 100 ms.
func (t *Timing) ticks(d time.Duration) uint64 {
	tick := t.Tick
	if tick <= 0 {
		tick = 100 * time.Millisecond
	}
	return max(1, uint64((d+tick-1)/tick))
}
