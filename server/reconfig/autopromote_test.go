package reconfig

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/tracker"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/raftnode"
)

// promotion is one, when and of whom.
type promotion struct {
	at time.Duration
	id uint64
}

// autoPromote runs for a time, with a leader 1 whose view of the cluster is made by status.
func autoPromote(t *testing.T, total time.Duration, status func(at time.Duration) raftnode.Status, change func(*AutoPromote)) (all []promotion) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		a := AutoPromote{
			Status:  func() raftnode.Status { return status(time.Since(start)) },
			Started: func(uint64) bool { return true },
			Promote: func(_ context.Context, id uint64) error {
				all = append(all, promotion{time.Since(start), id})
				return nil
			},
			Stay: 5 * time.Second, Clock: clock.Real, Logger: zap.NewNop(), Promoted: NewAutoPromoted(),
		}
		if change != nil {
			change(&a)
		}
		ctx, cancel := context.WithTimeout(t.Context(), total)
		defer cancel()
		require.ErrorIs(t, a.Run(ctx), context.DeadlineExceeded)
	})
	return all
}

func voter(active bool) raftnode.Progress {
	return raftnode.Progress{Match: 100, Active: active, State: tracker.StateReplicate}
}

func learner(match uint64) raftnode.Progress {
	return raftnode.Progress{Match: match, Active: true, State: tracker.StateReplicate, Learner: true}
}

// led is what the leader 1 knows of the others.
func led(others map[uint64]raftnode.Progress) raftnode.Status {
	st := raftnode.Status{ID: 1, Lead: 1, Progress: map[uint64]raftnode.Progress{1: voter(false)}}
	for id, p := range others {
		st.Progress[id] = p
	}
	return st
}

func TestAutoPromote(t *testing.T) {
	const after = 5500 * time.Millisecond // the first of eleven looks is not at once
	with := func(l raftnode.Progress, voters ...raftnode.Progress) raftnode.Status {
		others := map[uint64]raftnode.Progress{9: l}
		for i, v := range voters {
			others[uint64(i+2)] = v
		}
		return led(others)
	}
	but := func(change func(*raftnode.Progress)) raftnode.Progress {
		l := learner(100)
		change(&l)
		return l
	}
	for _, c := range []struct {
		name   string
		status raftnode.Status
		want   bool
	}{
		{"keeps up", with(learner(100)), true},
		{"has just enough", with(learner(90)), true},
		{"has too little", with(learner(89)), false},
		{"is silent", with(but(func(p *raftnode.Progress) { p.Active = false })), false},
		{"is being probed", with(but(func(p *raftnode.Progress) { p.State = tracker.StateProbe })), false},
		{"gets a snapshot", with(but(func(p *raftnode.Progress) { p.State, p.PendingSnapshot = tracker.StateSnapshot, 50 })), false},
		{"is a voter", with(voter(true)), false},
		{"one voter is down", with(learner(100), voter(true), voter(false)), true},
		{"no quorum", with(learner(100), voter(false), voter(false)), false},
		{"two voters, one is down", with(learner(100), voter(false)), true},
		{"five voters, two are down", with(learner(100), voter(true), voter(true), voter(false), voter(false)), true},
		{"five voters, three are down", with(learner(100), voter(true), voter(false), voter(false), voter(false)), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var want []promotion
			if c.want {
				want = []promotion{{after, 9}}
			}
			require.Equal(t, want, autoPromote(t, 6*time.Second, func(time.Duration) raftnode.Status { return c.status }, nil))
		})
	}
}

func TestAutoPromoteOneAfterTheOther(t *testing.T) {
	promoted := map[uint64]bool{}
	got := autoPromote(t, 30*time.Second, func(time.Duration) raftnode.Status {
		others := map[uint64]raftnode.Progress{}
		for id := uint64(7); id <= 9; id++ {
			if others[id] = learner(100); promoted[id] {
				others[id] = voter(true)
			}
		}
		return led(others)
	}, func(a *AutoPromote) {
		inner := a.Promote
		a.Promote = func(ctx context.Context, id uint64) error {
			promoted[id] = true
			return inner(ctx, id)
		}
	})
	require.Equal(t, []promotion{{5500 * time.Millisecond, 7}, {11 * time.Second, 8}, {16500 * time.Millisecond, 9}}, got)
}

// TestAutoPromoteBeginsAnew counts from the last time at which something was wrong.
func TestAutoPromoteBeginsAnew(t *testing.T) {
	const wrong = 3 * time.Second
	for name, then := range map[string]func(st *raftnode.Status){
		"behind":        func(st *raftnode.Status) { st.Progress[9] = learner(10) },
		"gone":          func(st *raftnode.Status) { delete(st.Progress, 9) },
		"led by others": func(st *raftnode.Status) { st.Lead, st.Progress = 2, nil },
		"no leader":     func(st *raftnode.Status) { st.Lead, st.Progress = 0, nil },
		"moves":         func(st *raftnode.Status) { st.LeadTransferee = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			got := autoPromote(t, 10*time.Second, func(at time.Duration) raftnode.Status {
				st := led(map[uint64]raftnode.Progress{9: learner(100)})
				if at == wrong {
					then(&st)
				}
				return st
			}, nil)
			require.Equal(t, []promotion{{wrong + 5500*time.Millisecond, 9}}, got)
		})
	}
}

func TestAutoPromoteRefused(t *testing.T) {
	status := func(time.Duration) raftnode.Status { return led(map[uint64]raftnode.Progress{9: learner(100)}) }
	var failed int
	require.Len(t, autoPromote(t, 20*time.Second, status, func(a *AutoPromote) {
		inner := a.Promote
		a.Promote = func(ctx context.Context, id uint64) error {
			if failed++; failed < 3 {
				return errors.New("not now")
			}
			return inner(ctx, id)
		}
	}), 1)
	require.Empty(t, autoPromote(t, 20*time.Second, status, func(a *AutoPromote) { a.Started = func(uint64) bool { return false } }))
}
