package apply

import (
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/alarm"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/quota"
)

// ErrUnknownCommand means that the log holds a command that this version cannot execute. The member must stop: going on
// would make it differ from the others.
var ErrUnknownCommand = errors.New("apply: command of a kind that this version does not know")

// Cluster is the part of the membership that commands change.
type Cluster interface {
	SetVersion(r *membershippb.ClusterVersionSetRequest) error
	SetAttributes(r *membershippb.ClusterMemberAttrSetRequest) error
	SetDowngrade(r *membershippb.DowngradeInfoSetRequest) error
}

// Tokens notes who was authenticated.
type Tokens interface {
	// Assign returns the token of a user, made from what the command carries and the index of the entry before it.
	Assign(user, prefix string, index uint64) (string, error)
}

// Config is what an Applier works on.
type Config struct {
	Store   *mvcc.Store
	Leases  *lease.Table
	Alarms  *alarm.Store
	Auth    *auth.State
	Tokens  Tokens
	Quota   *quota.Quota
	Cluster Cluster
	Header  func() *pb.ResponseHeader // cluster id, member id and raft term of this member; the revision is filled in here
	Metrics *Metrics
	Logger  *zap.Logger
}

// Result is the outcome of a command.
type Result struct {
	Resp     proto.Message   // nil if Err is set and nothing else is to be said
	Err      error           // the client's error; the command may have been executed nevertheless (ErrNoSpace)
	Physical <-chan struct{} // of a compaction: closed when the old revisions are gone from the backend
}

// Applier executes commands.
type Applier struct {
	cfg Config
}

// New makes an Applier.
func New(cfg Config) *Applier {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(MetricsConfig{})
	}
	return &Applier{cfg: cfg}
}

// HasEffect says whether a command must be executed even when nobody waits for its result.
func HasEffect(r *pb.InternalRaftRequest) bool {
	return r.Range == nil && r.AuthUserGet == nil && r.AuthRoleGet == nil && r.AuthStatus == nil
}

// Apply executes the command of the entry at index. wanted says that somebody on this member waits for the result; without
// it, range requests inside transactions are not evaluated. The returned error is fatal to the member: ErrUnknownCommand or a
// failing disk.
func (a *Applier) Apply(index uint64, r *pb.InternalRaftRequest, wanted bool) (Result, error) {
	if err := a.refuse(r); err != nil {
		return Result{Err: err}, nil
	}
	if err := a.cfg.Auth.Load().Permit(identity(r), a.cfg.Leases, r); err != nil {
		return Result{Err: err}, nil
	}
	fits := a.cfg.Quota.Available(cost(r))
	start := a.cfg.Metrics.Now()
	res, err := a.execute(index, r, wanted)
	a.cfg.Metrics.applied(start, r, &res)
	if err == nil && res.Err == nil && !fits {
		res.Err = errdefs.ErrNoSpace
	}
	return res, err
}

// refuse applies the alarms: a corrupt cluster serves nothing, one without space takes nothing that grows it.
func (a *Applier) refuse(r *pb.InternalRaftRequest) error {
	if a.cfg.Alarms.Active(pb.AlarmType_CORRUPT) && touchesData(r) {
		return errdefs.ErrCorrupt
	}
	if a.cfg.Alarms.Active(pb.AlarmType_NOSPACE) && cost(r) > 0 {
		return errdefs.ErrNoSpace
	}
	return nil
}

func touchesData(r *pb.InternalRaftRequest) bool {
	return r.Put != nil || r.Range != nil || r.DeleteRange != nil || r.Txn != nil || r.Compaction != nil ||
		r.LeaseGrant != nil || r.LeaseRevoke != nil
}

func cost(r *pb.InternalRaftRequest) int {
	switch {
	case r.Put != nil:
		return quota.CostPut(r.Put)
	case r.Txn != nil:
		return quota.CostTxn(r.Txn)
	case r.LeaseGrant != nil:
		return quota.CostLease()
	}
	return 0
}

func (a *Applier) execute(index uint64, r *pb.InternalRaftRequest, wanted bool) (Result, error) {
	switch {
	case r.Put != nil:
		return a.put(r.Put), nil
	case r.Txn != nil:
		return a.txn(r.Txn, wanted), nil
	case r.DeleteRange != nil:
		return a.deleteRange(r.DeleteRange), nil
	case r.Range != nil:
		return a.rangeKeys(r.Range), nil
	case r.Compaction != nil:
		return a.compact(r.Compaction), nil
	case r.LeaseGrant != nil:
		return a.leaseGrant(r.LeaseGrant), nil
	case r.LeaseRevoke != nil:
		return a.leaseRevoke(r.LeaseRevoke), nil
	case r.LeaseCheckpoint != nil:
		return a.leaseCheckpoint(r.LeaseCheckpoint), nil
	case r.Alarm != nil:
		return a.alarm(r.Alarm)
	case r.Authenticate != nil:
		return a.authenticate(index, r.Authenticate), nil
	case r.ClusterVersionSet != nil:
		return Result{}, a.cfg.Cluster.SetVersion(r.ClusterVersionSet)
	case r.ClusterMemberAttrSet != nil:
		return Result{}, a.cfg.Cluster.SetAttributes(r.ClusterMemberAttrSet)
	case r.DowngradeInfoSet != nil:
		return Result{}, a.cfg.Cluster.SetDowngrade(r.DowngradeInfoSet)
	case r.DowngradeVersionTest != nil:
		return Result{}, nil // exists for etcd's own tests and has no effect there either
	}
	if res, ok := a.manage(r); ok {
		return res, nil
	}
	return Result{}, fmt.Errorf("%w: %s", ErrUnknownCommand, fieldsOf(r))
}

// fieldsOf names the fields that are set, without their contents: these may be secret.
func fieldsOf(r *pb.InternalRaftRequest) string {
	names := ""
	m := r.ProtoReflect()
	for i := range m.Descriptor().Fields().Len() {
		if fd := m.Descriptor().Fields().Get(i); m.Has(fd) {
			names += " " + string(fd.Name())
		}
	}
	if len(m.GetUnknown()) > 0 {
		names += " (and unknown fields)"
	}
	return names
}

func (a *Applier) write() *writer {
	return &writer{WriteTxn: a.cfg.Store.Write(), leases: a.cfg.Leases}
}

func (a *Applier) put(r *pb.PutRequest) Result {
	if err := checkLease(a.cfg.Leases, r); err != nil {
		return Result{Err: err}
	}
	w := a.write()
	defer w.End()
	resp, err := w.put(r)
	return result(resp, err)
}

func (a *Applier) deleteRange(r *pb.DeleteRangeRequest) Result {
	w := a.write()
	defer w.End()
	resp, err := w.deleteRange(r)
	return result(resp, err)
}

func (a *Applier) rangeKeys(r *pb.RangeRequest) Result {
	w := a.write()
	defer w.End()
	resp, err := rangeMessage(w, r, false)
	return result(resp, err)
}

func (a *Applier) txn(r *pb.TxnRequest, wanted bool) Result {
	w := a.write()
	defer w.End()
	p := choose(w, r, nil)
	if _, err := checkTxn(w, a.cfg.Leases, r, p); err != nil {
		return Result{Err: err}
	}
	resp, _, err := runTxn(w, w, r, p, !wanted)
	if err != nil {
		// Everything that can fail was checked before the first change. Half of a transaction must never be kept.
		panic(fmt.Sprintf("apply: checked transaction failed: %v", err))
	}
	resp.Header.Revision = w.Rev()
	return Result{Resp: resp}
}

func (a *Applier) compact(r *pb.CompactionRequest) Result {
	done, err := a.cfg.Store.Compact(r.Revision)
	if err != nil {
		return Result{Err: err, Physical: done}
	}
	return Result{Resp: &pb.CompactionResponse{Header: &pb.ResponseHeader{Revision: a.revision()}}, Physical: done}
}

// revision is the current one, including what is not published yet.
func (a *Applier) revision() int64 {
	w := a.cfg.Store.Write()
	defer w.End()
	return w.Rev()
}

func (a *Applier) header() *pb.ResponseHeader {
	h := a.cfg.Header()
	h.Revision = a.revision()
	return h
}

func (a *Applier) alarm(r *pb.AlarmRequest) (Result, error) {
	resp := &pb.AlarmResponse{}
	switch r.Action {
	case pb.AlarmRequest_GET:
		resp.Alarms = a.cfg.Alarms.Get(r.Alarm)
	case pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE:
		change := a.cfg.Alarms.Deactivate
		if r.Action == pb.AlarmRequest_ACTIVATE {
			change = a.cfg.Alarms.Activate
			if r.Alarm == pb.AlarmType_NONE {
				break
			}
		}
		m, err := change(r.MemberID, r.Alarm)
		if err != nil {
			return Result{}, err
		}
		if m != nil {
			resp.Alarms = append(resp.Alarms, m)
		}
	default:
		return Result{}, nil
	}
	return Result{Resp: resp}, nil
}

func result[M proto.Message](resp M, err error) Result {
	if err != nil {
		return Result{Err: err}
	}
	return Result{Resp: resp}
}
