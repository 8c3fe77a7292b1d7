// Package alarm keeps the cluster-wide alarms (NOSPACE, CORRUPT), each raised by a member.
//
// An alarm is a row of the backend's alarm bucket: the key is a marshalled etcdserverpb.AlarmMember, the value is empty,
// as etcd writes it.
//
// # Concurrency
//
// Activate, Deactivate and Restore are called from the apply goroutine only. Get and Active may be called from anywhere;
// they read an immutable copy.
package alarm

import (
	"fmt"
	"slices"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Rows is where alarms are stored: the alarm bucket of a backend.
type Rows interface {
	Put(key, value []byte)
	Delete(key []byte)
	ForEach(func(key, value []byte) error) error
}

// Store is the set of active alarms.
type Store struct {
	rows   Rows
	active atomic.Pointer[[]*pb.AlarmMember]
}

// Open reads the alarms that rows holds.
func Open(rows Rows) (*Store, error) {
	s := &Store{}
	return s, s.Restore(rows)
}

// Restore replaces the set by what rows holds: the state came from a snapshot.
func (s *Store) Restore(rows Rows) error {
	var all []*pb.AlarmMember
	err := rows.ForEach(func(k, _ []byte) error {
		m := &pb.AlarmMember{}
		if err := proto.Unmarshal(k, m); err != nil {
			return fmt.Errorf("alarm: row %x: %w", k, err)
		}
		all = append(all, m)
		return nil
	})
	if err != nil {
		return err
	}
	s.rows = rows
	s.active.Store(&all)
	return nil
}

// Activate raises an alarm of a member and returns it; raising one twice changes nothing.
func (s *Store) Activate(member uint64, kind pb.AlarmType) (*pb.AlarmMember, error) {
	if m := s.find(member, kind); m != nil {
		return m, nil
	}
	m := &pb.AlarmMember{MemberID: member, Alarm: kind}
	key, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("alarm: %w", err)
	}
	s.rows.Put(key, nil)
	next := append(slices.Clone(*s.active.Load()), m)
	s.active.Store(&next)
	return m, nil
}

// Deactivate clears an alarm and returns it, or nil if it was not active.
func (s *Store) Deactivate(member uint64, kind pb.AlarmType) (*pb.AlarmMember, error) {
	m := s.find(member, kind)
	if m == nil {
		return nil, nil
	}
	key, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("alarm: %w", err)
	}
	s.rows.Delete(key)
	next := slices.DeleteFunc(slices.Clone(*s.active.Load()), func(o *pb.AlarmMember) bool { return o == m })
	s.active.Store(&next)
	return m, nil
}

func (s *Store) find(member uint64, kind pb.AlarmType) *pb.AlarmMember {
	for _, m := range *s.active.Load() {
		if m.MemberID == member && m.Alarm == kind {
			return m
		}
	}
	return nil
}

// Get lists the active alarms of a kind, or all of them for AlarmType_NONE. The messages are shared: do not change them.
func (s *Store) Get(kind pb.AlarmType) []*pb.AlarmMember {
	var out []*pb.AlarmMember
	for _, m := range *s.active.Load() {
		if kind == pb.AlarmType_NONE || m.Alarm == kind {
			out = append(out, m)
		}
	}
	return out
}

// Active says whether any member has raised an alarm of the kind.
func (s *Store) Active(kind pb.AlarmType) bool {
	for _, m := range *s.active.Load() {
		if m.Alarm == kind {
			return true
		}
	}
	return false
}
