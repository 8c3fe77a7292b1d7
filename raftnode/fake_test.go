package raftnode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
)

// memLog is a Log in memory, for what needs no files.
type memLog struct {
	mu       sync.Mutex
	hard     *raftpb.HardState
	ents     []*raftpb.Entry // ents[i] has index i+1
	markers  []*walpb.Snapshot
	released uint64
	syncs    int
	reads    int
	fail     error         // returned by Save
	readFail error         // returned by Entries
	gate     chan struct{} // if set, Save waits for it
}

func (l *memLog) Save(hs *raftpb.HardState, ents []*raftpb.Entry, mustSync bool) error {
	l.mu.Lock()
	gate := l.gate
	l.mu.Unlock()
	if gate != nil {
		<-gate
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	if hs.GetTerm() != 0 {
		l.hard = proto.Clone(hs).(*raftpb.HardState)
	}
	for _, e := range ents {
		for uint64(len(l.ents)) < e.GetIndex()-1 {
			l.ents = append(l.ents, nil)
		}
		l.ents = append(l.ents[:e.GetIndex()-1], e)
	}
	if mustSync {
		l.syncs++
	}
	return nil
}

func (l *memLog) SaveSnapshot(m *walpb.Snapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.GetIndex() > l.hard.GetCommit() && m.GetIndex() <= uint64(len(l.ents)) {
		return fmt.Errorf("marker at %d precedes the hard state that commits it (%d)", m.GetIndex(), l.hard.GetCommit())
	}
	l.markers = append(l.markers, m)
	return nil
}

func (l *memLog) Sync() error { return nil }

func (l *memLog) ReleaseTo(index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = max(l.released, index)
	return nil
}

func (l *memLog) Entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if l.readFail != nil {
		return nil, l.readFail
	}
	if lo < l.released {
		return nil, errors.New("released")
	}
	var out []*raftpb.Entry
	size := uint64(0)
	for i := lo; i < hi && i <= uint64(len(l.ents)); i++ {
		if size += entryBytes(l.ents[i-1]); size > maxBytes && len(out) > 0 {
			break
		}
		out = append(out, l.ents[i-1])
	}
	return out, nil
}

func (l *memLog) set(f func(l *memLog)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

// memSnaps is a Snapshots in memory.
type memSnaps struct {
	mu    sync.Mutex
	files []*raftpb.Snapshot
	dbs   map[uint64][]byte
}

func (s *memSnaps) Save(snap *raftpb.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = append(s.files, snap)
	return nil
}

func (s *memSnaps) DBPath(index uint64) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.dbs[index]; !ok {
		return "", fmt.Errorf("no database at %d", index)
	}
	return fmt.Sprint(index), nil
}

func (s *memSnaps) saveDB(r io.Reader, index uint64) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dbs == nil {
		s.dbs = map[uint64][]byte{}
	}
	s.dbs[index] = b
	return nil
}

func (s *memSnaps) readDB(index uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.dbs[index]
	if !ok {
		return nil, fmt.Errorf("no database at %d", index)
	}
	return b, nil
}

func (s *memSnaps) ReleaseDBs(before uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.dbs {
		if i < before {
			delete(s.dbs, i)
		}
	}
	return nil
}

// smState is the state of a test state machine: every command it has executed.
type smState struct {
	Applied uint64
	Lines   []string
}

// testSM executes commands by remembering them. What persist writes is what survives a crash.
type testSM struct {
	mu      sync.Mutex
	node    *Node
	state   smState
	seen    uint64 // index at the start; entries up to it change nothing
	persist func([]byte) error
	readDB  func(index uint64) ([]byte, error)
	onApply func(e *raftpb.Entry) // under mu
	wait    func()                // before each batch
	batches int
	restore int
}

func (s *testSM) load(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = smState{}
	if err := json.Unmarshal(b, &s.state); err != nil {
		return err
	}
	s.seen = s.state.Applied
	return nil
}

func (s *testSM) Apply(ents []*raftpb.Entry) {
	if s.wait != nil {
		s.wait()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches++
	for _, e := range ents {
		if e.GetType() != raftpb.EntryNormal {
			cc := &raftpb.ConfChange{}
			if err := proto.Unmarshal(e.GetData(), cc); err != nil {
				panic(err)
			}
			s.mu.Unlock()
			s.node.ApplyConfChange(cc)
			s.mu.Lock()
		}
		if e.GetIndex() <= s.state.Applied {
			continue
		}
		if e.GetIndex() != s.state.Applied+1 {
			panic(fmt.Sprintf("entry %d applied after %d", e.GetIndex(), s.state.Applied))
		}
		s.state.Applied = e.GetIndex()
		if e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 {
			s.state.Lines = append(s.state.Lines, string(e.GetData()))
		}
		if s.onApply != nil {
			s.onApply(e)
		}
	}
}

func (s *testSM) encode() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := json.Marshal(s.state)
	if err != nil {
		panic(err)
	}
	return b
}

func (s *testSM) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.state.Lines...)
}

func (s *testSM) Snapshot(uint64) ([]byte, func() error, error) {
	return []byte("members"), func() error {
		if s.persist == nil {
			return nil
		}
		return s.persist(s.encode())
	}, nil
}

func (s *testSM) OpenDB() (io.ReadCloser, int64, []byte, error) {
	b := s.encode()
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), []byte("members"), nil
}

func (s *testSM) Restore(snap *raftpb.Snapshot) error {
	b, err := s.readDB(snap.GetMetadata().GetIndex())
	if err != nil {
		return err
	}
	if err := s.load(b); err != nil {
		return err
	}
	s.mu.Lock()
	s.restore++
	applied := s.state.Applied
	s.mu.Unlock()
	if applied != snap.GetMetadata().GetIndex() {
		return fmt.Errorf("the database is at %d, the snapshot at %d", applied, snap.GetMetadata().GetIndex())
	}
	if s.persist != nil {
		return s.persist(b)
	}
	return nil
}

// nullTransport drops everything.
type nullTransport struct{}

func (nullTransport) Send([]*raftpb.Message)                                    {}
func (nullTransport) SendSnapshot(_ *raftpb.Message, db io.ReadCloser, _ int64) { _ = db.Close() }
func (nullTransport) ActivePeers() int                                          { return 0 }

// emptyState is a state machine's state at index that holds nothing.
func emptyState(index uint64) io.Reader {
	b, err := json.Marshal(smState{Applied: index})
	if err != nil {
		panic(err)
	}
	return bytes.NewReader(b)
}
