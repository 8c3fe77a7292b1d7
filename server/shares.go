package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/fairness"
	"github.com/keelson-io/keelson/server/rpc"
)

// newShares makes the lanes of the member's clients.
func (m *member) newShares(reg prometheus.Registerer) rpc.Shares {
	f := &m.cfg.Limits.Fair
	metrics := fairness.NewMetrics(reg, "fair", "calls")
	lane := func(name string) *fairness.Lane {
		return fairness.New(fairness.Config{
			Name: name, Capacity: int64(f.Inflight[name]), Weights: f.Weights, MaxQueue: f.Queue, MaxWait: m.cfg.RequestTimeout(),
			Clock: m.env.Clock, Metrics: metrics,
		})
	}
	return rpc.Shares{Writes: lane(config.LaneWrites), Reads: lane(config.LaneReads), Logins: lane(config.LaneLogins)}
}
