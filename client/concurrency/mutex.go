package concurrency

import (
	"context"
	"errors"
	"sync"

	"github.com/keelson-io/keelson/client"
)

var (
	// ErrLocked is returned by TryLock when another session has the lock.
	ErrLocked = errors.New("mutex: locked by another session")
	// ErrLockReleased is returned by Unlock when the lock is not held.
	ErrLockReleased = errors.New("mutex: lock has already been released")
)

// Mutex is a lock that at most one session holds. Within one session it does not exclude.
type Mutex struct {
	s      *Session
	prefix string
	place  place
	header *client.ResponseHeader
}

// NewMutex returns the lock called name, which is the prefix of its keys.
func NewMutex(s *Session, name string) *Mutex { return &Mutex{s: s, prefix: name + "/"} }

// TryLock takes the lock if it is free, or returns ErrLocked at once.
func (m *Mutex) TryLock(ctx context.Context) error {
	p, resp, err := enqueue(ctx, m.s, m.prefix, "")
	if err != nil {
		return err
	}
	m.place = p
	if p.first(resp) {
		m.header = resp.Header
		return nil
	}
	if err := m.Unlock(ctx); err != nil {
		return err
	}
	return ErrLocked
}

// Lock takes the lock, and waits for it if need be. If it fails or ctx ends, it gives up its place in the queue.
func (m *Mutex) Lock(ctx context.Context) error {
	p, resp, err := enqueue(ctx, m.s, m.prefix, "")
	if err != nil {
		return err
	}
	m.place = p
	if p.first(resp) {
		m.header = resp.Header
		return nil
	}
	err = m.await(ctx)
	if err != nil && !errors.Is(err, ErrSessionExpired) {
		cctx, cancel := m.s.afterwards()
		defer cancel()
		_ = m.Unlock(cctx) // or the lease will
	}
	return err
}

func (m *Mutex) await(ctx context.Context) error {
	ctx, cancel := m.s.within(ctx)
	defer cancel()
	if err := m.place.wait(ctx, m.s.c, m.prefix); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrSessionExpired) {
			return cause
		}
		return err
	}
	// It may be that all before are gone, and this key with them.
	got, err := m.s.c.Get(ctx, m.place.key)
	if err != nil {
		return err
	}
	if len(got.Kvs) == 0 {
		return ErrSessionExpired
	}
	m.header = got.Header
	return nil
}

// Unlock gives the lock, or the place in its queue, up.
func (m *Mutex) Unlock(ctx context.Context) error {
	if m.place.rev == 0 {
		return ErrLockReleased
	}
	err := repeat(ctx, func() error {
		_, err := m.s.c.Delete(ctx, m.place.key)
		return err
	})
	if err == nil {
		m.place = place{}
	}
	return err
}

// IsOwner is a comparison that holds while this Mutex has the lock. Put it into the transactions that the lock is for.
func (m *Mutex) IsOwner() client.Cmp { return client.CreateRevision(m.place.key).Equals(m.place.rev) }

// Key is the key in the queue, empty while there is none.
func (m *Mutex) Key() string { return m.place.key }

// Header is that of the response which gave the lock.
func (m *Mutex) Header() *client.ResponseHeader { return m.header }

// Locker is m as a sync.Locker. Its methods wait for as long as the client lives, and panic when they fail.
func (m *Mutex) Locker() sync.Locker { return locker{m} }

type locker struct{ m *Mutex }

// Lock is sync.Locker's.
func (l locker) Lock() {
	if err := l.m.Lock(l.m.s.c.Context()); err != nil {
		panic(err)
	}
}

// Unlock is sync.Locker's.
func (l locker) Unlock() {
	if err := l.m.Unlock(l.m.s.c.Context()); err != nil {
		panic(err)
	}
}
