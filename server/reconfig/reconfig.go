// Package reconfig changes who is in the cluster: it checks a change, proposes it, and waits until it is applied.
//
// The checks here are advice (strict reconfiguration: would enough members be up afterwards?). What every member must
// agree on is checked when the change is applied, see server/replica.
//
// # Concurrency
//
// A Reconfigurer may be used from any number of goroutines. Raft lets one change through at a time.
package reconfig

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/raftnode"
	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/membership"
)

// Raft is the consensus node as changes use it.
type Raft interface {
	ProposeConfChange(ctx context.Context, cc raftpb.ConfChangeI) error
	StatusNow(ctx context.Context) (raftnode.Status, error)
	Lead() uint64
	IsLeader() bool
}

// Waiters is where the outcome of a change is waited for.
type Waiters interface {
	Wait(id uint64) <-chan error
	Forget(id uint64)
}

// Config is what a Reconfigurer needs.
type Config struct {
	Members *membership.Cluster
	Raft    Raft
	Waiters Waiters
	NextID  func() uint64
	Active  membership.Activity
	Strict  bool          // check whether enough members are up
	Timeout time.Duration // of a change
	Peers   *http.Client  // for asking the leader
	Stopped <-chan struct{}
	Clock   clock.Clock
	// Registerer is where promotions are counted; may be nil.
	Registerer prometheus.Registerer
}

// Reconfigurer is described in the package comment.
type Reconfigurer struct {
	cfg      Config
	promoted prometheus.Counter
	refused  *prometheus.CounterVec // promotions, by why
}

// New makes a Reconfigurer.
func New(cfg Config) *Reconfigurer {
	r := &Reconfigurer{
		cfg: cfg,
		promoted: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "etcd", Subsystem: "server", Name: "learner_promote_successes",
			Help: "The total number of successful learner promotions while this member is leader.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "etcd", Subsystem: "server", Name: "learner_promote_failures",
			Help: "The total number of failed learner promotions (likely learner not ready) while this member is leader.",
		}, []string{"Reason"}),
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(r.promoted, r.refused)
	}
	return r
}

// readyPercent is how much of the leader's log a learner must have to be promoted.
const readyPercent = 90

// AddMember adds a voting member or a learner.
func (r *Reconfigurer) AddMember(ctx context.Context, peerURLs []string, learner bool) (*membership.Member, []*membership.Member, error) {
	now := r.cfg.Clock.Now()
	m, err := membership.NewMember(peerURLs, learner, now)
	if err != nil {
		return nil, nil, err
	}
	if r.cfg.Strict {
		if err := r.cfg.Members.MayAdd(m, r.cfg.Active, now); err != nil {
			return nil, nil, err
		}
	}
	kind := raftpb.ConfChangeAddNode
	if learner {
		kind = raftpb.ConfChangeAddLearnerNode
	}
	all, err := r.change(ctx, kind, m.ID, m)
	return m, all, err
}

// RemoveMember removes a member for good.
func (r *Reconfigurer) RemoveMember(ctx context.Context, id uint64) ([]*membership.Member, error) {
	if r.cfg.Strict {
		if err := r.cfg.Members.MayRemove(id, r.cfg.Active, r.cfg.Clock.Now()); err != nil {
			return nil, err
		}
	}
	return r.change(ctx, raftpb.ConfChangeRemoveNode, id, nil)
}

// UpdateMember changes the peer URLs of a member.
func (r *Reconfigurer) UpdateMember(ctx context.Context, id uint64, peerURLs []string) ([]*membership.Member, error) {
	m := &membership.Member{ID: id, RaftAttributes: membership.RaftAttributes{PeerURLs: peerURLs}}
	return r.change(ctx, raftpb.ConfChangeUpdateNode, id, m)
}

// PromoteMember makes a learner a voting member. Only the leader knows whether it is ready; others ask it.
func (r *Reconfigurer) PromoteMember(ctx context.Context, id uint64) ([]*membership.Member, error) {
	all, err := r.Promote(ctx, id)
	if !errors.Is(err, errdefs.ErrNotLeader) {
		return all, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	for ctx.Err() == nil {
		for _, url := range r.leaderURLs() {
			all, err := membership.PromoteRemote(ctx, r.cfg.Peers, url, id)
			if err == nil || errors.Is(err, errdefs.ErrLearnerNotReady) || errors.Is(err, membership.ErrMemberNotLearner) ||
				errors.Is(err, membership.ErrIDNotFound) {
				return all, err
			}
		}
		r.pause(ctx)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, errdefs.ErrTimeout
	}
	return nil, errdefs.ErrCanceled
}

func (r *Reconfigurer) leaderURLs() []string {
	if m := r.cfg.Members.Member(r.cfg.Raft.Lead()); m != nil {
		return m.PeerURLs
	}
	return nil
}

func (r *Reconfigurer) pause(ctx context.Context) {
	t := r.cfg.Clock.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C():
	case <-ctx.Done():
	}
}

// Promote is PromoteMember on the leader; errdefs.ErrNotLeader elsewhere.
func (r *Reconfigurer) Promote(ctx context.Context, id uint64) ([]*membership.Member, error) {
	all, err := r.promote(ctx, id)
	switch {
	case err == nil:
		r.promoted.Inc()
	case !errors.Is(err, errdefs.ErrNotLeader):
		r.refused.WithLabelValues(err.Error()).Inc()
	}
	return all, err
}

func (r *Reconfigurer) promote(ctx context.Context, id uint64) ([]*membership.Member, error) {
	if err := r.ready(ctx, id); err != nil {
		return nil, err
	}
	if r.cfg.Strict {
		if err := r.cfg.Members.MayPromote(id); err != nil {
			return nil, err
		}
	}
	change := &membership.ConfigChangeContext{Member: membership.Member{ID: id}, IsPromote: true}
	return r.change(ctx, raftpb.ConfChangeAddNode, id, change)
}

// ready says whether a learner has enough of the log.
func (r *Reconfigurer) ready(ctx context.Context, id uint64) error {
	st, err := r.cfg.Raft.StatusNow(ctx)
	if err != nil {
		return err
	}
	if st.Progress == nil || st.Lead != st.ID {
		return errdefs.ErrNotLeader
	}
	learner, ok := st.Progress[id]
	if !ok {
		return membership.ErrIDNotFound
	}
	if !hasLog(learner, st.Progress[st.ID]) {
		return errdefs.ErrLearnerNotReady
	}
	return nil
}

// change proposes a change and returns the members after it.
func (r *Reconfigurer) change(ctx context.Context, kind raftpb.ConfChangeType, id uint64, what any) ([]*membership.Member, error) {
	cc := &raftpb.ConfChange{Id: proto.Uint64(r.cfg.NextID()), Type: kind.Enum(), NodeId: proto.Uint64(id)}
	if what != nil {
		data, err := json.Marshal(what)
		if err != nil {
			return nil, err
		}
		cc.Context = data
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	applied := r.cfg.Waiters.Wait(cc.GetId())
	defer r.cfg.Waiters.Forget(cc.GetId())
	if err := r.cfg.Raft.ProposeConfChange(ctx, cc); err != nil {
		return nil, contextError(err)
	}
	select {
	case err := <-applied:
		if err != nil {
			return nil, err
		}
		return r.cfg.Members.Members(), nil
	case <-ctx.Done():
		return nil, contextError(ctx.Err())
	case <-r.cfg.Stopped:
		return nil, errdefs.ErrStopped
	}
}

func contextError(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errdefs.ErrTimeout
	case errors.Is(err, context.Canceled):
		return errdefs.ErrCanceled
	}
	return err
}
