package server

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/fairness"
	"github.com/keelson-io/keelson/server/prefixquota"
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

// newBudget makes the budget of the bytes of responses; nil if there is no bound.
func (m *member) newBudget(reg prometheus.Registerer) *rpc.Budget {
	f, total := &m.cfg.Limits.Fair, m.cfg.Limits.ResponseBytes
	if total < 0 {
		total = max(minBudget, memory()/4)
	}
	return rpc.NewBudget(fairness.New(fairness.Config{
		Name: "all", Capacity: total, Open: total / 2, Share: max(1, total/4), Weights: f.Weights, MaxQueue: f.Queue,
		MaxWait: m.cfg.RequestTimeout(), Clock: m.env.Clock, Metrics: fairness.NewMetrics(reg, "response_bytes", "bytes"),
	}))
}

// minBudget is the least that is found out by itself.
const minBudget = 64 << 20

// memory is how many bytes of memory the process may use: those of the machine, or what its control group allows.
func memory() int64 {
	total := int64(4 << 30)
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		if f := bytes.Fields(info); len(f) > 1 && string(f[0]) == "MemTotal:" {
			if kib, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil {
				total = kib << 10
			}
		}
	}
	for _, dir := range []string{"", controlGroup()} {
		if limit, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, "memory.max")); err == nil {
			if n, err := strconv.ParseInt(string(bytes.TrimSpace(limit)), 10, 64); err == nil {
				total = min(total, n)
			}
		}
	}
	return total
}

// controlGroup is the path of the process's own control group, "" if there is none.
func controlGroup() string {
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range bytes.Lines(groups) {
		if path, ok := bytes.CutPrefix(line, []byte("0::")); ok {
			return string(bytes.TrimSpace(path))
		}
	}
	return ""
}

// newPrefixes makes the quotas of prefixes; nil if there are none.
func (m *member) newPrefixes(reg prometheus.Registerer) *prefixquota.Book {
	quotas := make([]prefixquota.Quota, len(m.cfg.Limits.Prefixes))
	for i, q := range m.cfg.Limits.Prefixes {
		quotas[i] = prefixquota.Quota{Prefix: q.Prefix, Bytes: q.Bytes, Keys: q.Keys}
	}
	b := prefixquota.New(quotas, m.state.Store)
	if b != nil {
		reg.MustRegister(b.Collector())
	}
	return b
}
