package fairness

import (
	"math"
	"time"
)

// demand is how many seats a level could use, over a time.
type demand struct {
	value, max float64
	sum        float64 // of value times seconds
	squares    float64
	seconds    float64
	at         time.Time
	smoothed   float64
}

// smoothing is the part of the smoothed demand that remains when demand falls: half of it after five minutes.
const smoothing = 0.977

func (d *demand) set(value float64, now time.Time) {
	d.pass(now)
	d.value = value
	d.max = max(d.max, value)
}

func (d *demand) pass(now time.Time) {
	if s := now.Sub(d.at).Seconds(); s > 0 {
		d.sum += d.value * s
		d.squares += d.value * d.value * s
		d.seconds += s
		d.at = now
	}
}

// wanted is what a level wanted in a period, in seats.
type wanted struct {
	highest            int
	average, deviation float64
	smoothed           float64
}

// period ends a period and begins the next.
func (d *demand) period(now time.Time) wanted {
	d.pass(now)
	w := wanted{highest: int(math.Round(d.max)), smoothed: d.smoothed}
	if d.seconds > 0 {
		w.average = d.sum / d.seconds
		w.deviation = math.Sqrt(max(0, d.squares/d.seconds-w.average*w.average))
		envelope := w.average + w.deviation
		w.smoothed = max(envelope, smoothing*d.smoothed+(1-smoothing)*envelope)
	}
	*d = demand{value: d.value, max: d.value, at: now, smoothed: w.smoothed}
	return w
}

// wanted ends a period of a level's demand.
func (l *level) wanted(now time.Time) wanted {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.demand.period(now)
}

// retry is when those who were rejected are told to come again, in seconds. It doubles while many are rejected, and falls by
// one at a time when few are.
type retry struct {
	after int
	since time.Time
	count int
}

const maxRetry = 32

// rejected notes a rejection and returns the seconds after which it may be tried again.
func (l *level) rejected(now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.retry
	r.after = max(1, r.after)
	if r.since.IsZero() {
		r.since = now
	}
	for now.Sub(r.since) >= time.Duration(r.after)*time.Second {
		r.since = r.since.Add(time.Duration(r.after) * time.Second)
		switch {
		case r.count >= 3*r.after:
			r.after = min(2*r.after, maxRetry)
		case r.count < r.after && r.after > 1:
			r.after--
		case r.count == 0:
			r.since = now // it was quiet for long
		}
		r.count = 0
	}
	r.count++
	return r.after
}
