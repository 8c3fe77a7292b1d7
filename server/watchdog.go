package server

import (
	"net/http"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/bootstrap"
	"github.com/keelson-io/keelson/server/corruption"
	"github.com/keelson-io/keelson/server/integrity"
	"github.com/keelson-io/keelson/server/rpc"
)

// watchdog finds data that differ from those of other members.
type watchdog struct {
	checker    *corruption.Checker // etcd's checks
	integrity  *integrity.Checker
	refetcher  *integrity.Refetcher
	quarantine rpc.Quarantine
}

// watchData makes the watchdog.
func (m *member) watchData() {
	w := &m.data
	w.checker = corruption.New(corruption.Config{
		MemberID: m.boot.MemberID, Members: m.boot.Members, Hasher: m.state.Store, IsLeader: m.node.IsLeader, Gate: m.gate.Wait,
		Raise: m.upkeep.RaiseCorrupt, Peers: m.env.Peers, Timeout: m.cfg.RequestTimeout(), Clock: m.env.Clock, Logger: m.env.Logger,
	})
	lg := m.env.Logger.Named("integrity")
	w.integrity = integrity.New(integrity.Config{
		MemberID: m.boot.MemberID, Members: m.boot.Members, Store: m.state.Store,
		Interval: m.cfg.Upkeep.IntegrityInterval, Timeout: max(m.cfg.Upkeep.IntegrityInterval, m.cfg.Raft.Election), Peers: m.env.Peers,
		Quarantined: func(on bool) {
			w.quarantine.Set(on)
			m.node.Abstain(on)
		},
		Stranger: m.state.Store.ExpectHashing, // etcd's members leave a hash of every compaction, and ask for it
		FS:       m.env.FS, Marker: filepath.Join(m.cfg.MemberDir(), "quarantine"), Clock: m.env.Clock, Logger: lg, Registerer: m.env.Registerer,
	})
	w.refetcher = integrity.NewRefetcher(integrity.RefetchConfig{
		Checker: w.integrity, Machine: m.machine, IsLeader: m.node.IsLeader, FS: m.env.FS, Dir: m.cfg.SnapDir(),
		Install: func(path string) (*backend.Backend, error) { return bootstrap.Install(m.cfg, m.env, path) },
		Stopped: m.stopping, Logger: lg,
	})
}

// distrusted says whether the data of this member are known to be wrong.
func (m *member) distrusted() bool { return m.data.integrity.Quarantined() }

// alarms are those of the cluster; a member in quarantine adds that it is corrupt, which only it says.
func (m *member) alarms() []*pb.AlarmMember {
	list := m.state.Alarms.Get(pb.AlarmType_NONE)
	if m.distrusted() {
		list = append(list, &pb.AlarmMember{MemberID: m.boot.MemberID, Alarm: pb.AlarmType_CORRUPT})
	}
	return list
}

// troubles are what a status says beside alarms.
func (m *member) troubles() []string {
	if t := m.data.integrity.Trouble(); t != "" {
		return []string{t}
	}
	return nil
}

// stateHandler gives other members a copy of the database.
func (m *member) stateHandler() http.Handler {
	return m.data.integrity.StateHandler(integrity.StateConfig{
		Applied: m.node.WaitApplied, Backend: m.state.Backend, Timeout: m.cfg.RequestTimeout(), Logger: m.env.Logger.Named("integrity"),
	})
}
