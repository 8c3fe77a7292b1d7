package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// maxClockDifference between two members is what passes without a warning.
const maxClockDifference = time.Second

// health is the answer to a probe.
type health struct {
	OK  bool
	Now time.Time
}

// serveProbing answers a probe.
func serveProbing(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(health{OK: true, Now: clock.Real.Now()}) // a prober that has gone needs no answer
}

// probe measures the round trip time to the peer until it is stopped.
func (p *peer) probe() {
	tick := clock.Real.NewTicker(p.t.cfg.ProbeInterval)
	defer tick.Stop()
	rtt := p.t.metrics.roundTrip.WithLabelValues(formatID(p.id))
	for {
		select {
		case <-tick.C():
		case <-p.ctx.Done():
			return
		}
		took, ahead, err := p.probeOnce()
		switch {
		case p.ctx.Err() != nil:
			return
		case err != nil:
			p.lg.Warn("peer does not answer a probe", zap.Error(err))
			continue
		case ahead.Abs() > maxClockDifference:
			p.lg.Warn("clocks of members differ", zap.Duration("peer-is-ahead-by", ahead), zap.Duration("rtt", took))
		}
		rtt.Observe(took.Seconds())
		p.probed.Store(&Probe{At: clock.Real.Now(), RoundTrip: took, ClockAhead: ahead})
	}
}

// Probe is what a probe of a peer has found.
type Probe struct {
	At         time.Time // zero: there was none yet
	RoundTrip  time.Duration
	ClockAhead time.Duration // of the peer's clock, to about half the round trip
}

// Reach is how a peer is reached.
type Reach struct {
	ActiveSince time.Time           // zero: it is not reached
	Probe       Probe               // the last one that was answered
	RoundTrips  prometheus.Observer // a histogram in seconds
}

// Reach returns how a peer is reached; false if there is no such peer.
func (t *Transport) Reach(id uint64) (Reach, bool) {
	p := t.peer(id)
	if p == nil {
		return Reach{}, false
	}
	r := Reach{ActiveSince: p.status.activeSince(), RoundTrips: t.metrics.roundTrip.WithLabelValues(formatID(id))}
	if last := p.probed.Load(); last != nil {
		r.Probe = *last
	}
	return r, true
}

// probeOnce returns the round trip time and by how much the peer's clock is ahead.
func (p *peer) probeOnce() (rtt, ahead time.Duration, err error) {
	ctx, cancel := context.WithTimeout(p.ctx, p.t.cfg.ReadTimeout)
	defer cancel()
	u := p.urls.pick()
	target := *u
	target.Path += probingPath
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return 0, 0, err
	}
	start := clock.Real.Now()
	resp, err := p.t.postClient.RoundTrip(req)
	if err != nil {
		p.urls.failed(u)
		return 0, 0, err
	}
	defer resp.Body.Close()
	var h health
	err = json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(&h)
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("transport: probe answered %d", resp.StatusCode)
	} else if err == nil && !h.OK {
		err = errors.New("transport: peer says that it is not well")
	}
	end := clock.Real.Now()
	rtt = end.Sub(start)
	return rtt, h.Now.Sub(end) + rtt/2, err
}
