package objectstore

import (
	"context"
	"sync"
	"time"

	"github.com/keelson-io/keelson/client"
)

const (
	healthTimeout = 2 * time.Second        // that a store which is well takes at most
	healthKept    = 500 * time.Millisecond // for which an answer is good
)

// health is what is known of the store.
type health struct {
	gate gate

	mu  sync.Mutex
	at  time.Time
	err error
}

// Health returns why the store cannot be read linearizably, nil if it can. However often it is asked, the store is asked now and
// then only.
func (s *Store) Health(ctx context.Context) error {
	h := &s.health
	h.mu.Lock()
	at, err := h.at, h.err
	h.mu.Unlock()
	if s.cfg.Clock.Now().Sub(at) < healthKept {
		return err
	}
	if _, err = h.gate.get(ctx); err != nil {
		return storeError(ctx, err, false)
	}
	return nil
}

func (s *Store) askHealth() (int64, error) {
	ctx, cancel := context.WithTimeout(s.ctx, healthTimeout)
	defer cancel()
	r, err := s.cfg.Client.Get(ctx, s.cfg.Prefix, client.WithCountOnly())
	h := &s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.err = s.cfg.Clock.Now(), storeError(ctx, err, false)
	return r.GetHeader().GetRevision(), err
}
