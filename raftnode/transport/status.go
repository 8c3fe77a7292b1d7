package transport

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// status says whether the last that was heard of a peer was good.
type status struct {
	lg            *zap.Logger
	metrics       *metrics
	local, remote string

	mu      sync.Mutex
	since   time.Time // zero: inactive
	stopped bool
}

func (s *status) activate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || !s.since.IsZero() {
		return
	}
	s.since = clock.Real.Now()
	s.metrics.activePeers.WithLabelValues(s.local, s.remote).Inc()
	s.lg.Info("peer became active")
}

func (s *status) deactivate(doing string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		s.lg.Debug("peer is still inactive", zap.String("doing", doing), zap.Error(err))
		return
	}
	s.since = time.Time{}
	s.metrics.activePeers.WithLabelValues(s.local, s.remote).Dec()
	s.metrics.disconnectedPeers.WithLabelValues(s.local, s.remote).Inc()
	s.lg.Warn("peer became inactive", zap.String("doing", doing), zap.Error(err))
}

func (s *status) activeSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}

// stop makes the peer inactive for good.
func (s *status) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if !s.since.IsZero() {
		s.since = time.Time{}
		s.metrics.activePeers.WithLabelValues(s.local, s.remote).Dec()
	}
}
