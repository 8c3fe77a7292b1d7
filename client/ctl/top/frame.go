// Package top makes a table of what the members of a cluster do, of two looks at each: rates and durations are of the time between
// the two.
//
// # Concurrency
//
// There is no state: everything is a function of its arguments.
package top

import (
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/client/ctl/survey"
)

// Number is a number that may be unknown: NaN, in JSON null.
type Number float64

var unknown = Number(math.NaN())

// Known says whether the number is known.
func (n Number) Known() bool { return !math.IsNaN(float64(n)) }

// MarshalJSON is json.Marshaler's.
func (n Number) MarshalJSON() ([]byte, error) {
	if !n.Known() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// Frame is what is shown at a time.
type Frame struct {
	Time     time.Time `json:"time"`
	Cluster  uint64    `json:"cluster_id"`
	Interval float64   `json:"interval_seconds"` // between the looks
	Revision int64     `json:"revision"`
	Changes  Number    `json:"revisions_per_second"`
	Members  []Member  `json:"members"`
	Hottest  []Hot     `json:"hottest_prefixes"` // over all members
	Biggest  []Big     `json:"biggest_prefixes"` // as the leader tells, or else the first member
	Hidden   bool      `json:"prefixes_hidden"`  // from this user
}

// Member is a row.
type Member struct {
	Name     string        `json:"name"`
	Endpoint string        `json:"endpoint"`
	ID       uint64        `json:"member_id"`
	Source   survey.Source `json:"source"`
	Role     string        `json:"role"` // leader, follower, learner, no leader, down
	Version  string        `json:"version"`
	Error    string        `json:"error,omitempty"`
	Errors   []string      `json:"errors,omitempty"` // alarms, and no leader

	Rates     Rates     `json:"calls_per_second"`
	Durations Durations `json:"seconds"`
	Load      Load      `json:"load"`
}

// Rates are calls per second.
type Rates struct {
	Put    Number `json:"put"`
	Get    Number `json:"get"`
	Delete Number `json:"delete"`
	Txn    Number `json:"txn"`
	Other  Number `json:"other"`  // unary ones
	Failed Number `json:"failed"` // of all, but for those that the client gave up
}

// Durations are quantiles in seconds.
type Durations struct {
	Write50  Number `json:"write_p50"`
	Write99  Number `json:"write_p99"`
	Read50   Number `json:"read_p50"`
	Read99   Number `json:"read_p99"`
	Sync99   Number `json:"wal_fsync_p99"`
	Commit99 Number `json:"backend_commit_p99"`
	Trip     Number `json:"peer_round_trip"` // the longest to another member: the last one, or else the median
}

// Load is what a member holds.
type Load struct {
	Lag         Number `json:"raft_lag"` // entries that are committed and not applied, or behind the leader's commit
	Watchers    Number `json:"watchers"`
	Slow        Number `json:"slow_watchers"`
	Pending     Number `json:"pending_events"`
	Leases      Number `json:"leases"`
	Keys        Number `json:"keys"`
	Size        Number `json:"db_size"`
	InUse       Number `json:"db_size_in_use"`
	Quota       Number `json:"db_size_quota"`
	Connections Number `json:"connections"`
	Files       Number `json:"open_files"`
	Memory      Number `json:"memory_bytes"`
}

// Hot is a prefix and how often it is used.
type Hot struct {
	Prefix []byte  `json:"prefix"`
	Key    bool    `json:"key"`
	Reads  float64 `json:"reads_per_second"`
	Writes float64 `json:"writes_per_second"`
}

// Big is a prefix and what is in it.
type Big struct {
	Prefix []byte `json:"prefix"`
	Key    bool   `json:"key"`
	Keys   int64  `json:"keys"`
	Bytes  int64  `json:"bytes"`
}

// NewFrame compares two surveys of the same endpoints. before may be nil.
func NewFrame(before, now []survey.Member, at time.Time) *Frame {
	f := &Frame{Time: at, Changes: unknown}
	committed := uint64(0)
	for i := range now {
		committed = max(committed, now[i].Look.GetRaft().GetCommitted())
	}
	for i := range now {
		earlier := survey.Member{}
		if i < len(before) && !restarted(&before[i], &now[i]) {
			earlier = before[i]
		}
		f.Members = append(f.Members, newMember(&earlier, &now[i], committed))
		f.addCluster(&earlier, &now[i])
	}
	f.addPrefixes(now)
	slices.SortStableFunc(f.Members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(rank(b.Role), rank(a.Role)), strings.Compare(a.Name, b.Name))
	})
	return f
}

// rank puts the leader before the others, and who is down behind them.
func rank(role string) int {
	switch role {
	case "leader":
		return 1
	case "down":
		return -1
	}
	return 0
}

// restarted says whether a member counts anew.
func restarted(before, now *survey.Member) bool {
	return before.ID() != now.ID() || before.Source != now.Source || before.Look.GetStarted() != now.Look.GetStarted()
}

func (f *Frame) addCluster(before, now *survey.Member) {
	rev := now.Look.GetStore().GetRevision()
	f.Cluster = cmp.Or(f.Cluster, now.Look.GetHeader().GetClusterId())
	if s := elapsed(before, now); s > 0 {
		f.Interval = max(f.Interval, s)
		if rev >= f.Revision {
			f.Changes = Number(float64(rev-before.Look.GetStore().GetRevision()) / s)
		}
	}
	f.Revision = max(f.Revision, rev)
}

// elapsed is the time between the looks in seconds, 0 if there is none.
func elapsed(before, now *survey.Member) float64 {
	if before.Look == nil || now.Look == nil {
		return 0
	}
	return now.Answered.Sub(before.Answered).Seconds()
}

func newMember(before, now *survey.Member, committed uint64) Member {
	look := now.Look
	m := Member{
		Name: now.Name(), Endpoint: now.Endpoint, ID: now.ID(), Source: now.Source, Role: role(now),
		Version: look.GetMember().GetServerVersion(), Errors: look.GetErrors(),
	}
	if now.Err != nil {
		m.Error = now.Err.Error()
	}
	seconds := elapsed(before, now)
	m.Rates = newRates(before.Look, look, seconds)
	m.Durations = newDurations(before.Look, look, seconds > 0)
	m.Load = newLoad(look, committed)
	return m
}

func role(m *survey.Member) string {
	switch {
	case m.Look == nil:
		return "down"
	case m.Look.GetMember().GetIsLearner():
		return "learner"
	case m.Leads():
		return "leader"
	case m.Look.GetRaft().GetLeader() == 0:
		return "no leader"
	}
	return "follower"
}

// methods are those of a look by name.
func methods(l *insightpb.LookResponse) map[string]*insightpb.Method {
	out := map[string]*insightpb.Method{}
	for _, m := range l.GetMethods() {
		out[m.Name] = m
	}
	return out
}

const kv = "/etcdserverpb.KV/"

func newRates(before, now *insightpb.LookResponse, seconds float64) Rates {
	r := Rates{unknown, unknown, unknown, unknown, unknown, unknown}
	if seconds <= 0 || len(now.GetMethods()) == 0 {
		return r
	}
	r = Rates{}
	earlier := methods(before)
	for _, m := range now.Methods {
		ended, failed := handled(m)
		endedBefore, failedBefore := handled(earlier[m.Name])
		r.Failed += Number(max(0, float64(failed)-float64(failedBefore)) / seconds)
		if m.Stream || m.Name == insightpb.Insight_Look_FullMethodName { // what top itself asks is no load
			continue
		}
		to := &r.Other
		switch m.Name {
		case kv + "Put":
			to = &r.Put
		case kv + "Range":
			to = &r.Get
		case kv + "DeleteRange":
			to = &r.Delete
		case kv + "Txn":
			to = &r.Txn
		}
		*to += Number(max(0, float64(ended)-float64(endedBefore)) / seconds)
	}
	return r
}

// handled counts the calls that ended, and those of them that failed by no will of the client.
func handled(m *insightpb.Method) (all, failed uint64) {
	for code, n := range m.GetHandled() {
		all += n
		if code != "OK" && code != "Canceled" {
			failed += n
		}
	}
	return all, failed
}

// newDurations is of what happened between the looks; since the member began if nothing did between them, or there is none before.
func newDurations(before, now *insightpb.LookResponse, between bool) Durations {
	earlier, current := methods(before), methods(now)
	since := func(names ...string) *insightpb.Durations {
		var all []*insightpb.Durations
		for _, name := range names {
			all = append(all, survey.Since(current[kv+name].GetDurations(), earlier[kv+name].GetDurations()))
		}
		return survey.Sum(all...)
	}
	if !between {
		earlier, before = nil, nil
	}
	write, read := since("Put", "DeleteRange", "Txn"), since("Range")
	return Durations{
		Write50: quantile(write, 0.5), Write99: quantile(write, 0.99), Read50: quantile(read, 0.5), Read99: quantile(read, 0.99),
		Sync99:   quantile(survey.Since(now.GetWalFsync(), before.GetWalFsync()), 0.99),
		Commit99: quantile(survey.Since(now.GetBackendCommit(), before.GetBackendCommit()), 0.99),
		Trip:     longestTrip(now),
	}
}

func quantile(d *insightpb.Durations, q float64) Number {
	if v, ok := survey.Quantile(d, q); ok {
		return Number(v.Seconds())
	}
	return unknown
}

func longestTrip(now *insightpb.LookResponse) Number {
	longest := unknown
	for _, p := range now.GetPeers() {
		trip := quantile(p.RoundTrips, 0.5)
		if p.RoundTrip > 0 {
			trip = Number(time.Duration(p.RoundTrip).Seconds())
		}
		if trip.Known() && !(longest >= trip) {
			longest = trip
		}
	}
	return longest
}

func newLoad(look *insightpb.LookResponse, committed uint64) Load {
	l := Load{unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown}
	if look == nil {
		return l
	}
	known := func(v int64) Number {
		if v < 0 {
			return unknown
		}
		return Number(v)
	}
	l.Lag = Number(max(committed, look.Raft.GetCommitted()) - min(look.Raft.GetApplied(), committed))
	l.Leases = known(look.Leases)
	if st := look.Store; st != nil {
		l.Keys, l.Size, l.InUse, l.Quota = known(st.Keys), known(st.DbSize), known(st.DbSizeInUse), known(st.DbSizeQuota)
	}
	if w := look.Watches; w != nil {
		l.Watchers, l.Slow, l.Pending = known(w.Watchers), known(w.SlowWatchers), known(w.PendingEvents)
	}
	if p := look.Process; p != nil {
		l.Connections, l.Files, l.Memory = known(p.Connections), known(p.OpenFiles), Number(p.MemoryBytes)
	}
	return l
}

// addPrefixes sums up what the members tell of use, and takes the sizes of one.
func (f *Frame) addPrefixes(now []survey.Member) {
	hot := map[string]Hot{}
	var sizes *insightpb.Prefixes
	for i := range now {
		p := now[i].Look.GetPrefixes()
		f.Hidden = f.Hidden || p.GetHidden()
		for _, h := range p.GetHottest() {
			sum := hot[string(h.Prefix)]
			hot[string(h.Prefix)] = Hot{h.Prefix, h.Key, sum.Reads + h.Reads, sum.Writes + h.Writes}
		}
		if p != nil && (sizes == nil || now[i].Leads()) {
			sizes = p
		}
	}
	f.Hottest = slices.SortedFunc(maps.Values(hot), func(a, b Hot) int {
		return cmp.Or(cmp.Compare(b.Reads+b.Writes, a.Reads+a.Writes), strings.Compare(string(a.Prefix), string(b.Prefix)))
	})
	for _, b := range sizes.GetBiggest() {
		f.Biggest = append(f.Biggest, Big{b.Prefix, b.Key, b.Keys, b.Bytes})
	}
}
