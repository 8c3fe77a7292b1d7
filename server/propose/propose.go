// Package propose turns a client's command into an entry of the replicated log and its outcome into an answer.
//
// A Proposer gives the command an ID, parks a waiter under it, hands the encoded command to the consensus loop and waits.
// When the command comes back to be applied, the apply goroutine takes the waiter (Take), uses the command that the waiter
// still holds decoded, and delivers the result after it has been published.
//
// There is no goroutine and no timer per request: one goroutine looks through the waiters every tick and times out those
// that are past their deadline.
//
// # Concurrency
//
// Do, Take and Deliver may be called from anywhere. The waiters are in shards, each under its own lock.
package propose

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/errdefs"
)

const (
	// maxGap is how many committed entries may wait to be applied before new commands are refused.
	maxGap = 5000
	// maxPriorityGap is the same for the revocation of leases, which relieves the cluster.
	maxPriorityGap = maxGap + maxGap/10

	shards = 32
)

// Log is the consensus loop as the proposer sees it.
type Log interface {
	Propose(data []byte) error
	// ProposeIn is Propose for a command that only the leader of a term may give; elsewhere it gets lost.
	ProposeIn(term uint64, data []byte) error
	Committed() uint64
	Applied() uint64
}

// Config is what a Proposer needs.
type Config struct {
	Log      Log
	MemberID uint64
	MaxBytes int           // bound on an encoded command
	Timeout  time.Duration // how long a command may take
	// TimeoutReason names the error for a command that was proposed at start and timed out.
	TimeoutReason func(start time.Time) error
	Clock         clock.Clock
	Metrics       *apply.Metrics
}

// Proposer is described in the package comment.
type Proposer struct {
	cfg     Config
	ids     *IDs
	shards  [shards]shard
	pending atomic.Int64
	failed  atomic.Int64
	stop    chan struct{}
	stopped sync.WaitGroup
}

type shard struct {
	mu      sync.Mutex
	waiters map[uint64]*Waiter
}

// Waiter is a command under way.
type Waiter struct {
	Command *pb.InternalRaftRequest // decoded; the apply goroutine may use it instead of decoding the entry
	id      uint64
	start   time.Time
	done    chan apply.Result // capacity 1
}

// New starts a Proposer; Close ends it.
func New(cfg Config) *Proposer {
	if cfg.Metrics == nil {
		cfg.Metrics = apply.NewMetrics(apply.MetricsConfig{Clock: cfg.Clock})
	}
	p := &Proposer{cfg: cfg, ids: NewIDs(cfg.MemberID, cfg.Clock.Now()), stop: make(chan struct{})}
	for i := range p.shards {
		p.shards[i].waiters = make(map[uint64]*Waiter)
	}
	p.stopped.Go(p.expire)
	return p
}

// Close fails everything that still waits with ErrStopped, and all that comes later.
func (p *Proposer) Close() {
	close(p.stop)
	p.stopped.Wait()
}

// NextID returns an ID that no other command of this cluster has.
func (p *Proposer) NextID() uint64 { return p.ids.Next() }

// Pending is the number of commands under way; Failed how many were not proposed or timed out.
func (p *Proposer) Pending() int64 { return p.pending.Load() }

// Failed is described at Pending.
func (p *Proposer) Failed() int64 { return p.failed.Load() }

// Metrics are the durations that the Proposer adds to.
func (p *Proposer) Metrics() *apply.Metrics { return p.cfg.Metrics }

// Do proposes a command and waits until it has been applied and published. The error says that the outcome is unknown or
// that the command was not proposed; the command's own error is in the result. It takes ownership of r.
func (p *Proposer) Do(ctx context.Context, r *pb.InternalRaftRequest) (apply.Result, error) {
	return p.do(ctx, r, p.cfg.Log.Propose)
}

// DoIn is Do for a command that this member may only give as the leader of a term. If it is not, the command is not executed,
// and DoIn returns when ctx or the time is over.
func (p *Proposer) DoIn(ctx context.Context, term uint64, r *pb.InternalRaftRequest) (apply.Result, error) {
	return p.do(ctx, r, func(data []byte) error { return p.cfg.Log.ProposeIn(term, data) })
}

func (p *Proposer) do(ctx context.Context, r *pb.InternalRaftRequest, propose func(data []byte) error) (apply.Result, error) {
	applied := p.cfg.Log.Applied() // before the other: it must not overtake it
	gap := p.cfg.Log.Committed() - applied
	if gap > maxGap && (r.LeaseRevoke == nil || gap > maxPriorityGap) {
		return apply.Result{}, errdefs.ErrTooManyRequests
	}
	id := p.ids.Next()
	if r.Header == nil {
		r.Header = &pb.RequestHeader{}
	}
	r.Header.ID = id
	data, err := proto.Marshal(r)
	if err != nil {
		return apply.Result{}, err
	}
	if len(data) > p.cfg.MaxBytes {
		return apply.Result{}, errdefs.ErrRequestTooLarge
	}
	w := &Waiter{Command: r, id: id, start: p.cfg.Clock.Now(), done: make(chan apply.Result, 1)}
	p.park(w)
	p.pending.Add(1)
	defer p.pending.Add(-1)
	kind := apply.KindOf(r) // now: r belongs to the applier afterwards
	if err := propose(data); err != nil {
		p.failed.Add(1)
		p.Take(id)
		p.cfg.Metrics.Requested(kind, w.start, err)
		return apply.Result{}, err
	}
	res, err := p.wait(ctx, w)
	p.cfg.Metrics.Requested(kind, w.start, err)
	return res, err
}

func (p *Proposer) wait(ctx context.Context, w *Waiter) (apply.Result, error) {
	select {
	case res, ok := <-w.done:
		if !ok {
			p.failed.Add(1)
			return apply.Result{}, p.cfg.TimeoutReason(w.start)
		}
		return res, nil
	case <-ctx.Done():
		p.failed.Add(1)
		p.Take(w.id)
		if errors.Is(ctx.Err(), context.Canceled) {
			return apply.Result{}, errdefs.ErrCanceled
		}
		return apply.Result{}, p.cfg.TimeoutReason(w.start)
	case <-p.stop:
		p.Take(w.id)
		return apply.Result{}, errdefs.ErrStopped
	}
}

func (p *Proposer) shardOf(id uint64) *shard { return &p.shards[id%shards] }

func (p *Proposer) park(w *Waiter) {
	s := p.shardOf(w.id)
	s.mu.Lock()
	s.waiters[w.id] = w
	s.mu.Unlock()
}

// Take removes and returns the waiter of a command, or nil if nobody waits (any more).
func (p *Proposer) Take(id uint64) *Waiter {
	s := p.shardOf(id)
	s.mu.Lock()
	w := s.waiters[id]
	delete(s.waiters, id)
	s.mu.Unlock()
	return w
}

// Deliver wakes a waiter that was taken. It never blocks.
func (w *Waiter) Deliver(res apply.Result) { w.done <- res }

// RaiseNoSpace proposes this member's NOSPACE alarm and delivers res to w (if any) once that is done. It does not block.
func (p *Proposer) RaiseNoSpace(w *Waiter, res apply.Result) {
	p.stopped.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Timeout)
		defer cancel()
		_, _ = p.Do(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
			MemberID: p.cfg.MemberID, Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE,
		}})
		if w != nil {
			w.Deliver(res)
		}
	})
}

// expire closes the channels of waiters that are past their time.
func (p *Proposer) expire() {
	const step = 100 * time.Millisecond
	timer := p.cfg.Clock.NewTimer(step)
	defer timer.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-timer.C():
		}
		oldest := p.cfg.Clock.Now().Add(-p.cfg.Timeout)
		for i := range p.shards {
			s := &p.shards[i]
			s.mu.Lock()
			for id, w := range s.waiters {
				if w.start.Before(oldest) {
					delete(s.waiters, id)
					close(w.done)
				}
			}
			s.mu.Unlock()
		}
		timer.Reset(step)
	}
}
