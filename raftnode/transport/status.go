package transport

import (
	"errors"
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
	refusal error     // that was last logged
	stopped bool
}

func (s *status) activate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || !s.since.IsZero() {
		return
	}
	s.since, s.refusal = clock.Real.Now(), nil
	s.metrics.activePeers.WithLabelValues(s.local, s.remote).Inc()
	s.lg.Info("peer became active")
}

func (s *status) deactivate(doing string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		if s.newRefusal(err) {
			s.lg.Warn("peer refuses to work with this member", zap.String("doing", doing), zap.Error(err))
			return
		}
		s.lg.Debug("peer is still inactive", zap.String("doing", doing), zap.Error(err))
		return
	}
	s.since = time.Time{}
	s.metrics.activePeers.WithLabelValues(s.local, s.remote).Dec()
	s.metrics.disconnectedPeers.WithLabelValues(s.local, s.remote).Inc()
	s.lg.Warn("peer became inactive", zap.String("doing", doing), zap.Error(err))
}

// newRefusal says whether a peer that is not active gives a reason for it that was not logged last.
func (s *status) newRefusal(err error) bool {
	for _, reason := range []error{ErrClusterIDMismatch, ErrIncompatibleVersion} {
		if errors.Is(err, reason) {
			fresh := s.refusal != reason
			s.refusal = reason
			return fresh
		}
	}
	return false
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
