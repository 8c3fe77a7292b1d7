package server

import (
	"cmp"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/insight"
	"github.com/keelson-io/keelson/server/overview"
	"github.com/keelson-io/keelson/server/rpc"
	"github.com/keelson-io/keelson/server/tlsconfig"
)

// sight is what the member knows for those who look into it and into the cluster.
type sight struct {
	leaders  leaders
	overview *overview.Overview
}

// leaders is what the member notes of elections.
type leaders struct {
	lead, term uint64       // the last ones
	seen       atomic.Int64 // changes of the leader
	elected    atomic.Int64 // when a leader was last elected, in nanoseconds
}

// note is called on the loop of consensus, when the leader, the term or the own role has changed.
func (l *leaders) note(lead, term uint64, now time.Time) {
	if lead != 0 {
		l.elected.Store(now.UnixNano())
		if lead != l.lead || term != l.term {
			l.seen.Add(1)
		}
	}
	l.lead, l.term = lead, term
}

// lookTimeout is how long another member may take to describe itself.
const lookTimeout = 2 * time.Second

// looker describes the member for the Insight service.
type looker struct {
	*member
	doors   *doors
	traffic *rpc.Traffic
	started time.Time
	sizes   insight.Sizes
}

func newInsight(m *member, d *doors, traffic *rpc.Traffic) *rpc.Insight {
	l := &looker{member: m, doors: d, traffic: traffic, started: m.env.Clock.Now()}
	m.sight.overview.Serve(l.look)
	return rpc.NewInsight(rpc.InsightConfig{
		Header: m.header(), Errors: rpc.NewTranslator(), Access: m.access, Look: l.look, All: m.sight.overview.All,
	})
}

func (l *looker) look(n int) *insightpb.LookResponse {
	resp := &insightpb.LookResponse{
		Time: l.env.Clock.Now().UnixNano(), Started: l.started.UnixNano(),
		Member: l.lookAtMember(), Process: l.lookAtProcess(), Raft: l.lookAtRaft(), Peers: l.lookAtPeers(), Store: l.lookAtStore(),
		Watches: l.lookAtWatches(), Leases: int64(l.state.Leases.Len()), Alarms: l.state.Alarms.Get(pb.AlarmType_NONE),
		Methods:       lookAtMethods(l.traffic.Calls),
		WalFsync:      durations(l.boot.Log.SyncDurations()),
		BackendCommit: durations(l.state.Backend().CommitDurations()),
	}
	if resp.Raft.Leader == 0 {
		resp.Errors = append(resp.Errors, errdefs.ErrNoLeader.Error())
	}
	for _, a := range resp.Alarms {
		resp.Errors = append(resp.Errors, a.String())
	}
	if n > 0 {
		resp.Prefixes = l.prefixes(n)
	}
	resp.Certificates = append(certificates("client", l.doors.security.client), certificates("peer", l.doors.security.peer)...)
	return resp
}

func (l *looker) lookAtMember() *insightpb.Member {
	m := &insightpb.Member{
		Name: l.cfg.Name, IsLearner: l.boot.Members.IsLearner(), PeerUrls: l.cfg.Listen.PeerURLs, ClientUrls: l.cfg.Listen.ClientURLs,
		ServerVersion: version.Version, StorageVersion: l.storageVersion(), ClusterVersion: l.boot.Members.Version(),
		GoVersion: runtime.Version(), AuthEnabled: l.state.Auth.Load().Enabled(), ClientCertAuth: l.cfg.Security.Client.ClientCertAuth,
	}
	if d := l.boot.Members.Downgrade(); d.Enabled {
		m.DowngradeTarget = d.TargetVersion
	}
	return m
}

func (l *looker) lookAtProcess() *insightpb.Process {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	open, limit := l.doors.connections()
	return &insightpb.Process{
		HeapBytes: samples[0].Value.Uint64(), MemoryBytes: samples[1].Value.Uint64() - samples[2].Value.Uint64(),
		Goroutines: int64(runtime.NumGoroutine()), OpenFiles: orUnknown(usedFiles()), FileLimit: orUnknown(fileLimit()),
		Connections: int64(open), ConnectionLimit: int64(limit),
	}
}

// orUnknown makes -1 of what is not a number.
func orUnknown(v float64) int64 {
	if v != v {
		return -1
	}
	return int64(min(v, 1<<62))
}

func (l *looker) lookAtRaft() *insightpb.Raft {
	s := l.node.Status()
	r := &insightpb.Raft{
		Leader: s.Lead, Term: s.Term, Committed: s.Commit, Applied: s.Applied, FirstIndex: s.FirstIndex, LastIndex: s.LastIndex,
		LeaderChanges: l.sight.leaders.seen.Load(), PendingProposals: l.proposer.Pending(), FailedProposals: l.proposer.Failed(),
	}
	for id, p := range s.Progress {
		if id == l.boot.MemberID {
			continue
		}
		r.Followers = append(r.Followers, &insightpb.Follower{
			Id: id, Match: p.Match, Next: p.Next, State: strings.ToLower(strings.TrimPrefix(p.State.String(), "State")),
			IsLearner: p.Learner, Active: p.Active,
		})
	}
	slices.SortFunc(r.Followers, func(a, b *insightpb.Follower) int { return cmp.Compare(a.Id, b.Id) })
	return r
}

func (l *looker) lookAtPeers() (all []*insightpb.Peer) {
	for _, m := range l.boot.Members.Members() {
		if m.ID == l.boot.MemberID {
			continue
		}
		p := &insightpb.Peer{Id: m.ID, Name: m.Name, IsLearner: m.IsLearner}
		if reach, ok := l.transport.Reach(m.ID); ok {
			p.ActiveSince, p.Probed = nanos(reach.ActiveSince), nanos(reach.Probe.At)
			p.RoundTrip, p.ClockAhead = int64(reach.Probe.RoundTrip), int64(reach.Probe.ClockAhead)
			p.RoundTrips = durations(reach.RoundTrips)
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *insightpb.Peer) int { return cmp.Compare(a.Id, b.Id) })
	return all
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (l *looker) lookAtStore() *insightpb.Store {
	be, txn := l.state.Backend(), l.state.Store.Read()
	defer txn.Close()
	free := be.FreeList()
	s := &insightpb.Store{
		DbSize: be.Size(), DbSizeInUse: be.SizeInUse(), DbSizeQuota: l.quota.Limit(),
		FreePages: free.Pages, PageSize: free.PageSize, FreelistBytes: free.Bytes,
		Revision: txn.Rev(), CompactRevision: txn.CompactRev(),
	}
	s.Keys, s.KeyBytes = txn.Weigh("", nil)
	return s
}

func (l *looker) lookAtWatches() *insightpb.Watches {
	load := l.watches.Load()
	return &insightpb.Watches{Streams: load.Streams, Watchers: load.Watchers, SlowWatchers: load.Behind, PendingEvents: load.Pending}
}

// prefixes tells what parts of the key space are used most and are largest.
func (l *looker) prefixes(n int) *insightpb.Prefixes {
	now := l.env.Clock.Now()
	out := &insightpb.Prefixes{}
	for _, h := range l.traffic.Heat.Hottest(now, n) {
		out.Hottest = append(out.Hottest, &insightpb.HotPrefix{Prefix: []byte(h.Prefix), Key: h.Key, Reads: h.Reads, Writes: h.Writes})
	}
	big, at := l.sizes.Biggest(now, n, func(n int) []insight.Big {
		txn := l.state.Store.Read()
		defer txn.Close()
		return insight.Biggest(txn, n)
	})
	out.BiggestTime = at.UnixNano()
	for _, b := range big {
		out.Biggest = append(out.Biggest, &insightpb.BigPrefix{Prefix: []byte(b.Prefix), Key: b.Key, Keys: b.Keys, Bytes: b.Bytes})
	}
	return out
}

func lookAtMethods(calls *insight.Calls) (all []*insightpb.Method) {
	for _, c := range calls.Counts() {
		m := &insightpb.Method{Name: c.Name, Stream: c.Stream, Started: c.Started, Handled: map[string]uint64{}}
		for code, n := range c.Ended {
			m.Handled[code.String()] = n
		}
		if !c.Stream {
			m.Durations = &insightpb.Durations{Bounds: insight.Bounds(), Counts: c.Took, Count: c.Count, Sum: c.Sum.Seconds()}
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *insightpb.Method) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// durations reads a histogram of the metrics, nil if it cannot be read.
func durations(from prometheus.Observer) *insightpb.Durations {
	metric, ok := from.(prometheus.Metric)
	var m dto.Metric
	if !ok || metric.Write(&m) != nil {
		return nil
	}
	h := m.GetHistogram()
	d := &insightpb.Durations{Count: h.GetSampleCount(), Sum: h.GetSampleSum()}
	for _, b := range h.GetBucket() {
		d.Bounds = append(d.Bounds, b.GetUpperBound())
		d.Counts = append(d.Counts, b.GetCumulativeCount())
	}
	return d
}

func certificates(side string, from *tlsconfig.Side) (all []*insightpb.Certificate) {
	for _, c := range from.Certificates() {
		all = append(all, &insightpb.Certificate{
			Side: side, What: c.What, File: c.File, Subject: c.Subject.String(),
			NotBefore: c.NotBefore.UnixNano(), NotAfter: c.NotAfter.UnixNano(),
		})
	}
	return all
}
