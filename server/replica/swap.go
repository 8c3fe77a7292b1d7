package replica

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/mvcc/backend"
)

// errOvertaken says that a snapshot from the leader replaced the state before another one did.
var errOvertaken = errors.New("replica: a snapshot from the leader has replaced the state meanwhile")

// swap is a state that is to replace this one when everything up to its index is applied.
type swap struct {
	index uint64
	open  func() (*backend.Backend, error)
	done  chan error
}

// Hold keeps entries from being applied until release is called, and returns the index up to which they are.
func (m *Machine) Hold() (applied uint64, release func()) {
	m.applying.Lock()
	return max(m.applied, m.consistent), m.applying.Unlock
}

// Swap replaces the whole state by the one that open returns, which has everything up to index applied. That happens between
// the entry at index, which Hold says is not applied yet or the last one, and the next; done receives the outcome. It is
// called while the machine is held. An error of open stops the member, as its files are not known.
func (m *Machine) Swap(index uint64, open func() (*backend.Backend, error)) (done <-chan error) {
	s := &swap{index: index, open: open, done: make(chan error, 1)}
	m.swap = s
	if index <= max(m.applied, m.consistent) {
		m.carryOut()
	}
	return s.done
}

// applyAndSwap applies a batch in whose course the state is replaced.
func (m *Machine) applyAndSwap(entries []*raftpb.Entry) {
	k := 0
	for k < len(entries) && entries[k].GetIndex() <= m.swap.index {
		k++
	}
	m.applyBatch(entries[:k])
	if m.applied >= m.swap.index {
		m.carryOut()
	}
	m.applyBatch(entries[k:])
}

func (m *Machine) carryOut() {
	s := m.swap
	m.swap = nil
	m.cfg.State.Backend().Retire()
	be, err := s.open()
	if err == nil {
		err = m.cfg.State.replace(be)
	}
	if err != nil {
		err = fmt.Errorf("replacing the state at index %d: %w", s.index, err)
		m.cfg.Fatal(err)
	}
	m.consistent = s.index
	m.moved(s.index)
	s.done <- err
}

// overtake drops the swap that is waiting, if any.
func (m *Machine) overtake() {
	if m.swap != nil {
		m.swap.done <- errOvertaken
		m.swap = nil
	}
}
