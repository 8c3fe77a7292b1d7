package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/alarm"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/propose"
)

// Config is what a Machine works on.
type Config struct {
	MemberID uint64
	State    *State
	Applier  *apply.Applier
	Proposer Waiters
	Raft     Raft
	Peers    Peers
	// OpenSnapshot opens the backend that a snapshot from the leader brought (index: the snapshot's).
	OpenSnapshot func(index uint64) (*backend.Backend, error)
	// Distrusted says that the state must not be given to other members; may be nil.
	Distrusted func() bool
	// Fatal reports an error after which the member must stop.
	Fatal func(error)
	// Removed reports that this member was removed from the cluster.
	Removed func()
	Logger  *zap.Logger
}

// Waiters finds who waits for a command.
type Waiters interface {
	Take(id uint64) *propose.Waiter
	// RaiseNoSpace proposes the NOSPACE alarm and delivers res to w (if any) once that is done. It does not block.
	RaiseNoSpace(w *propose.Waiter, res apply.Result)
}

// Raft is the consensus node as the machine uses it.
type Raft interface {
	ApplyConfChange(cc raftpb.ConfChangeI) *raftpb.ConfState
	IsLeader() bool
}

// Peers is the transport as the machine uses it.
type Peers interface {
	AddPeer(id uint64, urls []string)
	UpdatePeer(id uint64, urls []string)
	RemovePeer(id uint64)
	RemoveAllPeers()
}

// State is the replicated state: what a snapshot replaces as a whole.
type State struct {
	Store   *mvcc.Store
	Leases  *lease.Table
	Alarms  *alarm.Store
	Auth    *auth.State
	Members *membership.Cluster
	backend atomic.Pointer[backend.Backend]
}

// SetBackend sets the backend that the parts of a new State were read from.
func (s *State) SetBackend(be *backend.Backend) { s.backend.Store(be) }

// Backend is the present backend; a snapshot from the leader replaces it.
func (s *State) Backend() *backend.Backend { return s.backend.Load() }

// Machine is described in the package comment.
type Machine struct {
	cfg  Config
	term atomic.Uint64
	// consistent is the index up to which the backend already holds the effects when the member starts.
	consistent uint64
	applied    uint64     // index of the last entry
	applying   sync.Mutex // held while entries are applied, or must not be
	swap       *swap      // nil: none is waiting
	done       []delivery // of the batch under way
	changes    *ConfWaiters

	mu sync.Mutex // guards at
	at Position
}

// Position is a point of the log and the revision that it left.
type Position struct {
	Index    uint64
	Revision int64
}

// delivery is a result that waits for the batch to be published.
type delivery struct {
	waiter *propose.Waiter
	result apply.Result
	full   bool // the member's own quota is passed, and no alarm said so yet
}

// New makes a machine for a state whose backend has applied everything up to consistent.
func New(cfg Config, consistent, term uint64) *Machine {
	m := &Machine{cfg: cfg, consistent: consistent, changes: NewConfWaiters()}
	m.term.Store(term)
	m.moved(consistent)
	return m
}

// Position is that of the last entry that was applied and published.
func (m *Machine) Position() Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

// moved notes that everything up to index is published.
func (m *Machine) moved(index uint64) {
	rev := m.cfg.State.Store.Rev()
	m.mu.Lock()
	m.at = Position{index, rev}
	m.mu.Unlock()
}

// Term is the term of the last entry that was applied and published.
func (m *Machine) Term() uint64 { return m.term.Load() }

// Changes is where members' changes are waited for.
func (m *Machine) Changes() *ConfWaiters { return m.changes }

// Apply executes a batch of committed entries, publishes the outcome once, and then wakes those who wait.
func (m *Machine) Apply(entries []*raftpb.Entry) {
	m.applying.Lock()
	defer m.applying.Unlock()
	if m.swap != nil {
		m.applyAndSwap(entries)
		return
	}
	m.applyBatch(entries)
}

func (m *Machine) applyBatch(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	last := entries[len(entries)-1]
	m.cfg.State.Store.Begin()
	conf, err := m.execute(entries)
	if err != nil {
		// Half a batch must never reach the disk: it would be applied again after a restart.
		m.cfg.State.Store.Abandon()
		m.cfg.Fatal(err)
		return
	}
	if last.GetIndex() > m.consistent {
		m.cfg.State.Backend().SetConsistentIndex(last.GetIndex(), last.GetTerm())
	}
	m.cfg.State.Store.Publish()
	m.term.Store(last.GetTerm())
	m.applied = last.GetIndex()
	m.moved(max(last.GetIndex(), m.consistent))
	m.deliver(conf)
}

func (m *Machine) execute(entries []*raftpb.Entry) (conf []confResult, err error) {
	for _, e := range entries {
		replayed := e.GetIndex() <= m.consistent
		switch e.GetType() {
		case raftpb.EntryNormal:
			err = m.applyNormal(e, replayed)
		case raftpb.EntryConfChange:
			var res confResult
			res, err = m.applyConf(e, replayed)
			conf = append(conf, res)
		default:
			err = fmt.Errorf("type %v, which etcd 3.7 does not use", e.GetType())
		}
		if err != nil {
			return nil, fmt.Errorf("applying entry %d of term %d: %w", e.GetIndex(), e.GetTerm(), err)
		}
	}
	return conf, nil
}

func (m *Machine) deliver(conf []confResult) {
	for i := range m.done {
		d := &m.done[i]
		if d.full {
			m.cfg.Proposer.RaiseNoSpace(d.waiter, d.result)
		} else if d.waiter != nil {
			d.waiter.Deliver(d.result)
		}
		*d = delivery{}
	}
	m.done = m.done[:0]
	for _, c := range conf {
		m.changes.deliver(c)
	}
}

func (m *Machine) applyNormal(e *raftpb.Entry, replayed bool) error {
	if len(e.Data) == 0 {
		// The entry with which a new leader begins its term: all of earlier terms is applied now.
		if m.cfg.Raft.IsLeader() {
			m.cfg.State.Leases.Promote(e.GetTerm())
		}
		return nil
	}
	if replayed {
		return nil
	}
	id, err := commandID(e.Data)
	if err != nil {
		return err
	}
	w := m.cfg.Proposer.Take(id)
	var cmd *pb.InternalRaftRequest
	if w != nil {
		cmd = w.Command
	} else {
		cmd = &pb.InternalRaftRequest{}
		if err := proto.Unmarshal(e.Data, cmd); err != nil {
			return fmt.Errorf("not a command: %w", err)
		}
		if !apply.HasEffect(cmd) {
			return nil
		}
	}
	res, err := m.cfg.Applier.Apply(e.GetIndex(), cmd, w != nil)
	if err != nil {
		return err
	}
	// Asked now: a later entry of the batch may clear the alarm that refused this one.
	full := errors.Is(res.Err, errdefs.ErrNoSpace) && !m.cfg.State.Alarms.Active(pb.AlarmType_NOSPACE)
	if w != nil || full {
		m.done = append(m.done, delivery{w, res, full})
	}
	return nil
}

// Field numbers of etcdserverpb.InternalRaftRequest and RequestHeader.
const (
	fieldID       = 1
	fieldHeader   = 100
	fieldHeaderID = 1
)

// commandID reads the ID of a marshalled command without decoding the rest: the field ID, or else that of the header.
func commandID(data []byte) (uint64, error) {
	id, header, err := findID(data, fieldID)
	if err != nil || id != 0 {
		return id, err
	}
	if header == nil {
		return 0, errors.New("not a command: it has no header")
	}
	id, _, err = findID(header, fieldHeaderID)
	return id, err
}

// findID walks over the fields of a message and returns the varint with a number, and the header if there is one.
func findID(data []byte, number protowire.Number) (id uint64, header []byte, err error) {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return 0, nil, fmt.Errorf("not a command: %w", protowire.ParseError(n))
		}
		data = data[n:]
		switch {
		case num == number && typ == protowire.VarintType:
			id, n = protowire.ConsumeVarint(data)
		case num == fieldHeader && typ == protowire.BytesType:
			header, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 {
			return 0, nil, fmt.Errorf("not a command: %w", protowire.ParseError(n))
		}
		data = data[n:]
	}
	return id, header, nil
}

// Snapshot returns the members in the form that etcd keeps in a snapshot file, and a function that makes everything
// applied so far durable.
func (m *Machine) Snapshot(uint64) (data []byte, persist func() error, err error) {
	data, err = m.cfg.State.Members.V2Snapshot()
	return data, func() error { return m.cfg.State.Backend().Commit() }, err // by then it may be another one, of later
}

// OpenDB opens a consistent copy of the backend, with everything applied so far, to be sent to a follower.
func (m *Machine) OpenDB() (db io.ReadCloser, size int64, data []byte, err error) {
	if m.cfg.Distrusted != nil && m.cfg.Distrusted() {
		return nil, 0, nil, errors.New("the data of this member differ from those of the majority, nobody gets a copy")
	}
	if data, err = m.cfg.State.Members.V2Snapshot(); err != nil {
		return nil, 0, nil, err
	}
	snap, err := m.cfg.State.Backend().Snapshot()
	if err != nil {
		return nil, 0, nil, err
	}
	pr, pw := io.Pipe()
	go func() {
		_, err := snap.WriteTo(pw)
		_ = pw.CloseWithError(errors.Join(err, snap.Close()))
	}()
	return pr, snap.Size(), data, nil
}

// Restore replaces the whole state by that of a snapshot from the leader, whose database file has been received.
func (m *Machine) Restore(snap *raftpb.Snapshot) error {
	m.applying.Lock()
	defer m.applying.Unlock()
	m.overtake()
	meta := snap.GetMetadata()
	m.cfg.State.Backend().Retire() // a defragmentation under way must not put its copy in the place of what was received
	be, err := m.cfg.OpenSnapshot(meta.GetIndex())
	if err != nil {
		return fmt.Errorf("opening the database of snapshot %d: %w", meta.GetIndex(), err)
	}
	if err := m.cfg.State.replace(be); err != nil {
		return fmt.Errorf("restoring from snapshot %d: %w", meta.GetIndex(), err)
	}
	m.cfg.Peers.RemoveAllPeers()
	for _, p := range m.cfg.State.Members.Members() {
		if p.ID != m.cfg.MemberID {
			m.cfg.Peers.AddPeer(p.ID, p.PeerURLs)
		}
	}
	m.consistent, m.applied = meta.GetIndex(), meta.GetIndex()
	m.term.Store(meta.GetTerm())
	m.moved(meta.GetIndex())
	return nil
}

// confStateKey is the row of the meta bucket that holds the raft configuration, as JSON.
var confStateKey = []byte("confState")

func (m *Machine) saveConfState(cs *raftpb.ConfState) error {
	data, err := json.Marshal(cs)
	if err != nil {
		return err
	}
	m.cfg.State.Backend().Put(backend.Meta, confStateKey, data)
	return nil
}
