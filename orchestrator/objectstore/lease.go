package objectstore

import (
	"context"
	"sync"
	"time"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/internal/clock"
)

const (
	// An object may live longer than its time by sharedPart of it, at most maxShared: so many objects share a lease.
	sharedPart = 0.05
	maxShared  = time.Minute
	// maxOnLease bounds the keys that go in one revision.
	maxOnLease = 1000
)

// leases hands out leases for objects that live for a time. Those that end at about the same time share one.
type leases struct {
	grant func(ctx context.Context, seconds int64) (client.LeaseID, error)
	clock clock.Clock

	mu    sync.Mutex
	byTTL map[time.Duration]*sharedLease
}

type sharedLease struct {
	turn    chan struct{} // holds one token: who has it may change what follows
	id      client.LeaseID
	expires time.Time
	objects int
}

func newLeases(c clock.Clock, grant func(context.Context, int64) (client.LeaseID, error)) *leases {
	return &leases{grant: grant, clock: c, byTTL: map[time.Duration]*sharedLease{}}
}

// get returns a lease that lives for ttl at least.
func (l *leases) get(ctx context.Context, ttl time.Duration) (client.LeaseID, error) {
	l.mu.Lock()
	s := l.byTTL[ttl]
	if s == nil {
		s = &sharedLease{turn: make(chan struct{}, 1)}
		s.turn <- struct{}{}
		l.byTTL[ttl] = s
	}
	l.mu.Unlock()
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	now := l.clock.Now()
	if s.id != 0 && !now.Add(ttl).After(s.expires) && s.objects < maxOnLease {
		s.objects++
		return s.id, nil
	}
	seconds := int64((ttl + min(time.Duration(float64(ttl)*sharedPart), maxShared) + time.Second - 1) / time.Second)
	id, err := l.grant(ctx, seconds)
	if err != nil {
		return 0, err
	}
	s.id, s.objects = id, 1
	s.expires = now.Add(time.Duration(seconds) * time.Second)
	return id, nil
}

// forget drops a lease that the store does not know any more.
func (l *leases) forget(id client.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ttl, s := range l.byTTL {
		select {
		case <-s.turn:
			if s.id == id {
				delete(l.byTTL, ttl)
			}
			s.turn <- struct{}{}
		default: // being replaced
		}
	}
}
