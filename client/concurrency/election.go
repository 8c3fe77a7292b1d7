package concurrency

import (
	"context"
	"errors"
	"iter"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
)

var (
	// ErrElectionNotLeader is returned by Proclaim without the leadership.
	ErrElectionNotLeader = errors.New("election: not leader")
	// ErrElectionNoLeader is returned by Leader while there is none.
	ErrElectionNoLeader = errors.New("election: no leader")
)

// Election chooses one of the sessions that campaign.
type Election struct {
	s      *Session
	prefix string
	place  place
	header *client.ResponseHeader
}

// NewElection returns the election called name, which is the prefix of its keys.
func NewElection(s *Session, name string) *Election { return &Election{s: s, prefix: name + "/"} }

// ResumeElection returns an election whose leadership the session has already, from key and revision of the leader.
func ResumeElection(s *Session, name, leaderKey string, leaderRev int64) *Election {
	e := NewElection(s, name)
	e.place = place{key: leaderKey, rev: leaderRev}
	return e
}

// Campaign waits until the session is the leader, and makes value its proclamation. If it fails or ctx ends, it
// gives up its place in the queue.
func (e *Election) Campaign(ctx context.Context, value string) error {
	p, resp, err := enqueue(ctx, e.s, e.prefix, value)
	if err != nil {
		return err
	}
	e.place = p
	if !resp.Succeeded {
		if kv := resp.Responses[0].GetResponseRange().Kvs[0]; string(kv.Value) != value {
			err = e.Proclaim(ctx, value)
		}
	}
	if err == nil && !p.first(resp) {
		err = e.await(ctx)
	}
	if err != nil {
		cctx, cancel := e.s.afterwards()
		defer cancel()
		_ = e.Resign(cctx) // or the lease will
		return err
	}
	e.header = resp.Header
	return nil
}

func (e *Election) await(ctx context.Context) error {
	ctx, cancel := e.s.within(ctx)
	defer cancel()
	err := e.place.wait(ctx, e.s.c, e.prefix)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrSessionExpired) {
		return cause
	}
	return err
}

// Proclaim changes the leader's value without another election.
func (e *Election) Proclaim(ctx context.Context, value string) error {
	if e.place.rev == 0 {
		return ErrElectionNotLeader
	}
	var resp *client.TxnResponse
	err := repeat(ctx, func() (err error) {
		resp, err = e.s.c.Txn(ctx).If(e.IsLeader()).
			Then(client.OpPut(e.place.key, value, client.WithLease(e.s.Lease()))).Commit()
		return err
	})
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		e.place = place{}
		return ErrElectionNotLeader
	}
	e.header = resp.Header
	return nil
}

// Resign gives the leadership, or the place in the queue, up.
func (e *Election) Resign(ctx context.Context) error {
	if e.place.rev == 0 {
		return nil
	}
	err := repeat(ctx, func() error {
		resp, err := e.s.c.Txn(ctx).If(e.IsLeader()).Then(client.OpDelete(e.place.key)).Commit()
		if err == nil {
			e.header = resp.Header
		}
		return err
	})
	if err == nil {
		e.place = place{}
	}
	return err
}

// IsLeader is a comparison that holds while the session's key is in the queue; after Campaign it is the leader's.
func (e *Election) IsLeader() client.Cmp {
	return client.CreateRevision(e.place.key).Equals(e.place.rev)
}

// Leader returns the leader's key and value, or ErrElectionNoLeader.
func (e *Election) Leader(ctx context.Context) (*client.GetResponse, error) {
	resp, err := e.s.c.Get(ctx, e.prefix, client.WithFirstCreate())
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, ErrElectionNoLeader
	}
	return resp, nil
}

// Observe yields the leader's key and value: the present one's first, then one for each proclamation and each new
// leader. Fast changes may be seen only in their last state across leaders, but a leader's proclamations are seen all.
// The loop ends after the first error.
func (e *Election) Observe(ctx context.Context) iter.Seq2[*client.KeyValue, error] {
	return func(yield func(*client.KeyValue, error) bool) {
		for resp, err := range e.ObserveResponses(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(resp.Kvs[0], nil) {
				return
			}
		}
	}
}

// ObserveResponses is Observe with headers: each response has one key, and the header of what the server sent it in.
func (e *Election) ObserveResponses(ctx context.Context) iter.Seq2[*client.GetResponse, error] {
	return func(yield func(*client.GetResponse, error) bool) {
		for {
			resp, err := e.s.c.Get(ctx, e.prefix, client.WithFirstCreate())
			if err != nil {
				yield(nil, err)
				return
			}
			var more bool
			if len(resp.Kvs) == 0 {
				more, err = e.awaitAny(ctx, resp.Header.Revision+1)
			} else {
				if !yield(&client.GetResponse{Header: resp.Header, Kvs: resp.Kvs}, nil) {
					return
				}
				more, err = e.follow(ctx, string(resp.Kvs[0].Key), resp.Header.Revision+1, yield)
			}
			if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // compacted: look again
				yield(nil, err)
				return
			}
			if err == nil && !more {
				return
			}
		}
	}
}

// awaitAny returns when somebody campaigns, at rev or later.
func (e *Election) awaitAny(ctx context.Context, rev int64) (bool, error) {
	w := e.s.c.Watch(ctx, e.prefix, client.WithPrefix(), client.WithRev(rev), client.WithFilterDelete())
	defer w.Close()
	for {
		resp, err := w.Next(ctx)
		if err != nil || len(resp.Events) > 0 {
			return true, err
		}
	}
}

// follow yields a leader's proclamations until its key is gone (true) or yield has enough (false).
func (e *Election) follow(ctx context.Context, key string, rev int64, yield func(*client.GetResponse, error) bool) (bool, error) {
	w := e.s.c.Watch(ctx, key, client.WithRev(rev))
	defer w.Close()
	for {
		resp, err := w.Next(ctx)
		if err != nil {
			return false, err
		}
		for _, ev := range resp.Events {
			if ev.Type == client.EventDelete {
				return true, nil
			}
			if !yield(&client.GetResponse{Header: resp.Header, Kvs: []*client.KeyValue{ev.Kv}}, nil) {
				return false, nil
			}
		}
	}
}

// Key is the session's key in the queue, empty while there is none.
func (e *Election) Key() string { return e.place.key }

// Rev is that key's creation revision.
func (e *Election) Rev() int64 { return e.place.rev }

// Header is that of the last response which changed the election.
func (e *Election) Header() *client.ResponseHeader { return e.header }
