package eviction

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Core follows thresholds over time.
type Core struct {
	thresholds []Threshold
	transition time.Duration
	since      map[int]time.Time                      // by threshold that is met: since when
	last       map[corev1.NodeConditionType]time.Time // when a threshold of it was met the last time
}

// NewCore makes a Core. A pressure lasts for the transition time after its last threshold was met.
func NewCore(thresholds []Threshold, transition time.Duration) *Core {
	return &Core{thresholds: thresholds, transition: transition, since: map[int]time.Time{}, last: map[corev1.NodeConditionType]time.Time{}}
}

// Low is whether so little is left of a signal that one of its thresholds is met, or its minimum reclaim is not there.
func Low(thresholds []Threshold, s Signal, o Observation) bool {
	return slices.ContainsFunc(thresholds, func(t Threshold) bool {
		return t.Signal == s && o.Available < t.Value.of(o.Capacity)+t.Reclaim.of(o.Capacity)
	})
}

// State is what follows from observations.
type State struct {
	Pressure []corev1.NodeConditionType // sorted
	Due      []Met                      // thresholds to act on, the most urgent first
}

// Observe takes what there is of each signal. One that is not observed is as good as not met.
func (c *Core) Observe(now time.Time, seen map[Signal]Observation) (s State) {
	for i, t := range c.thresholds {
		o, there := seen[t.Signal]
		limit := t.Value.of(o.Capacity)
		if _, was := c.since[i]; was {
			limit += t.Reclaim.of(o.Capacity)
		}
		if !there || o.Available >= limit {
			delete(c.since, i)
			continue
		}
		if _, was := c.since[i]; !was {
			c.since[i] = now
		}
		about, _ := t.Signal.trait()
		c.last[about.condition] = now
		if now.Sub(c.since[i]) >= t.Grace {
			s.Due = append(s.Due, Met{t, o})
		}
	}
	slices.SortStableFunc(s.Due, byOrder)
	for condition, at := range c.last {
		if at.Equal(now) || now.Sub(at) < c.transition {
			s.Pressure = append(s.Pressure, condition)
		}
	}
	slices.Sort(s.Pressure)
	return s
}
