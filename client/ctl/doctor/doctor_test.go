package doctor

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/client/ctl/survey"
)

var now = time.Unix(1_800_000_000, 0)

// well is what three members tell who are well; two looks, ten seconds apart.
func well() *Input {
	in := &Input{Now: now.Add(10 * time.Second)}
	for i := range uint64(3) {
		in.List = append(in.List, &pb.Member{ID: i + 1, Name: string(rune('a' + i)), ClientURLs: []string{"x"}})
	}
	for round := range 2 {
		var look []survey.Member
		for i := range uint64(3) {
			look = append(look, wellMember(i+1, now.Add(time.Duration(round)*10*time.Second)))
		}
		in.Looks = append(in.Looks, look)
	}
	return in
}

func histogram(slow uint64) *insightpb.Durations {
	return &insightpb.Durations{Bounds: []float64{0.001, 0.01, 0.1, 1}, Counts: []uint64{1000, 1000, 1000, 1000 + slow}, Count: 1000 + slow}
}

func wellMember(id uint64, at time.Time) survey.Member {
	name := string(rune('a' + id - 1))
	look := &insightpb.LookResponse{
		Header: &pb.ResponseHeader{ClusterId: 7, MemberId: id}, Time: at.UnixNano(), Started: now.Add(-time.Hour).UnixNano(),
		Member: &insightpb.Member{Name: name, ServerVersion: "3.7.3", StorageVersion: "3.7.0", ClusterVersion: "3.7.0",
			ClientUrls: []string{"https://10.0.0.1:2379"}, PeerUrls: []string{"https://10.0.0.1:2380"}, ClientCertAuth: true},
		Process:  &insightpb.Process{OpenFiles: 100, FileLimit: 65536, Connections: 10, ConnectionLimit: 65000},
		Raft:     &insightpb.Raft{Leader: 1, Term: 2, Committed: 1000, Applied: 1000, LeaderChanges: 1},
		Store:    &insightpb.Store{DbSize: 1 << 30, DbSizeInUse: 900 << 20, DbSizeQuota: 8 << 30},
		Watches:  &insightpb.Watches{Watchers: 5},
		WalFsync: histogram(0), BackendCommit: histogram(0),
		Methods: []*insightpb.Method{{Name: "/etcdserverpb.Maintenance/Snapshot", Started: 1, Stream: true, Handled: map[string]uint64{"OK": 1}}},
		Certificates: []*insightpb.Certificate{{Side: "client", What: "own", File: "/tls/a.pem", Subject: "CN=a",
			NotBefore: now.Add(-time.Hour).UnixNano(), NotAfter: now.Add(365 * 24 * time.Hour).UnixNano()}},
	}
	for other := range uint64(3) {
		if other+1 != id {
			look.Peers = append(look.Peers, &insightpb.Peer{Id: other + 1, Name: string(rune('a' + other)), ActiveSince: 1, RoundTrip: int64(time.Millisecond)})
		}
	}
	return survey.Member{Endpoint: name + ":2379", Source: survey.Insight, Look: look, Asked: at.Add(-time.Millisecond), Answered: at.Add(time.Millisecond)}
}

// TestWell: nothing is wrong with a cluster that is well, and every check says so.
func TestWell(t *testing.T) {
	found := Examine(well())
	require.Len(t, found, len(checks))
	for _, f := range found {
		require.Equal(t, OK, f.Level, f)
		require.NotEmpty(t, f.Found)
	}
	require.Equal(t, OK, Worst(found))
}

// TestTrouble spoils one thing after another.
func TestTrouble(t *testing.T) {
	const day = 24 * time.Hour
	second := func(change func(*insightpb.LookResponse)) func(*Input) {
		return func(in *Input) { change(in.Looks[1][1].Look) }
	}
	both := func(change func(*insightpb.LookResponse)) func(*Input) {
		return func(in *Input) { change(in.Looks[0][1].Look); change(in.Looks[1][1].Look) }
	}
	down := func(in *Input, i int) {
		for _, look := range in.Looks {
			look[i].Look, look[i].Err = nil, errors.New("connection refused")
		}
	}
	for _, c := range []struct {
		name, check string
		level       Level
		found       string
		spoil       func(*Input)
	}{
		{"no list", "members", Fail, "no one answered", func(in *Input) { in.List, in.ListErr = nil, errors.New("no one answered") }},
		{"two clusters", "members", Fail, "2 clusters", second(func(l *insightpb.LookResponse) { l.Header.ClusterId = 8 })},
		{"down", "members", Fail, "connection refused", func(in *Input) { down(in, 1) }},
		{"no quorum", "members", Fail, "1 of 3 voting", func(in *Input) { down(in, 1); down(in, 2) }},
		{"not started", "members", Warn, "never started", func(in *Input) { in.List[1].Name, in.List[1].ClientURLs = "", nil }},
		{"no leader", "leader", Fail, "knows no leader", second(func(l *insightpb.LookResponse) { l.Raft.Leader = 0 })},
		{"two leaders", "leader", Fail, "different leaders", second(func(l *insightpb.LookResponse) { l.Raft.Leader = 2 })},
		{"leader changes now", "leader", Fail, "changed 1 times within 10 s", second(func(l *insightpb.LookResponse) { l.Raft.LeaderChanges = 2 })},
		{"leader changes often", "leader", Warn, "changed 8 times in 1.0 hours", both(func(l *insightpb.LookResponse) { l.Raft.LeaderChanges = 9 })},
		{"full", "alarms", Fail, "NOSPACE", second(func(l *insightpb.LookResponse) { l.Errors = []string{"memberID:1 alarm:NOSPACE"} })},
		{"corrupt", "alarms", Fail, "CORRUPT", second(func(l *insightpb.LookResponse) { l.Errors = []string{"memberID:1  alarm:CORRUPT"} })},
		{"versions", "versions", Warn, "3.6.5 (b), 3.7.3 (a, c)", second(func(l *insightpb.LookResponse) {
			l.Member.ServerVersion, l.Member.StorageVersion, l.Member.ClusterVersion = "3.6.5", "3.6.0", "3.6.0"
		})},
		{"newer data", "versions", Fail, "data are of version 3.8.0", second(func(l *insightpb.LookResponse) { l.Member.StorageVersion = "3.8.0" })},
		{"older cluster", "versions", Warn, "works as version 3.6.0", second(func(l *insightpb.LookResponse) { l.Member.ClusterVersion = "3.6.0" })},
		{"downgrade", "versions", Warn, "downgrade to 3.6.0", second(func(l *insightpb.LookResponse) { l.Member.DowngradeTarget = "3.6.0" })},
		{"lag", "raft lag", Warn, "2000 entries behind", second(func(l *insightpb.LookResponse) { l.Raft.Committed, l.Raft.Applied = 3000, 1000 })},
		{"far behind", "raft lag", Fail, "6000 entries behind", second(func(l *insightpb.LookResponse) { l.Raft.Committed, l.Raft.Applied = 6000, 0 })},
		{"snapshot", "raft lag", Warn, "sends a snapshot to member 3", second(func(l *insightpb.LookResponse) {
			l.Raft.Followers = []*insightpb.Follower{{Id: 3, State: "snapshot", Active: true}}
		})},
		{"slow disk now", "log syncs", Fail, "(50 in 10 s)", second(func(l *insightpb.LookResponse) { l.WalFsync = histogram(50) })},
		{"slow disk always", "log syncs", Fail, "since its start", both(func(l *insightpb.LookResponse) { l.WalFsync = histogram(50) })},
		{"slow commits", "commits", Fail, "commits of the database", second(func(l *insightpb.LookResponse) { l.BackendCommit = histogram(50) })},
		{"far away", "peers", Warn, "round trip to a takes 80ms", second(func(l *insightpb.LookResponse) { l.Peers[0].RoundTrip = int64(80 * time.Millisecond) })},
		{"cut off", "peers", Fail, "does not reach c", second(func(l *insightpb.LookResponse) { l.Peers[1].ActiveSince = 0 })},
		{"clock", "clocks", Warn, "5s ahead of that of", both(func(l *insightpb.LookResponse) { l.Time += int64(5 * time.Second) })},
		{"clock far off", "clocks", Fail, "1h0m0s ahead of that of b", both(func(l *insightpb.LookResponse) { l.Time -= int64(time.Hour) })},
		{"own clock", "clocks", Warn, "this machine", func(in *Input) {
			for _, look := range in.Looks {
				for i := range look {
					look[i].Look.Time += int64(time.Minute)
				}
			}
		}},
		{"fragmented", "fragmentation", Warn, "80 % of the database's 1.0 GiB", second(func(l *insightpb.LookResponse) { l.Store.DbSizeInUse = l.Store.DbSize / 5 })},
		{"nearly full", "quota", Warn, "88 % of the quota", both(func(l *insightpb.LookResponse) { l.Store.DbSizeInUse, l.Store.DbSize = 7<<30, 7<<30 })},
		{"full soon", "quota", Warn, "it is full in 1h", second(func(l *insightpb.LookResponse) {
			l.Store.DbSize, l.Store.DbSizeInUse, l.Store.DbSizeQuota = 1<<30, 901<<20, 1261<<20
		})},
		{"files", "files", Fail, "65000 of 65536", second(func(l *insightpb.LookResponse) { l.Process.OpenFiles = 65000 })},
		{"few files", "files", Warn, "may open 1024", second(func(l *insightpb.LookResponse) { l.Process.FileLimit, l.Process.ConnectionLimit = 1024, 874 })},
		{"certificate", "certificates", Warn, "CN=a, /tls/a.pem, ends in 20 days", second(func(l *insightpb.LookResponse) { l.Certificates[0].NotAfter = now.Add(20 * day).UnixNano() })},
		{"certificate soon", "certificates", Fail, "ends in 5 days", second(func(l *insightpb.LookResponse) { l.Certificates[0].NotAfter = now.Add(5*day + time.Hour).UnixNano() })},
		{"certificate ended", "certificates", Fail, "has ended", second(func(l *insightpb.LookResponse) { l.Certificates[0].NotAfter = now.Add(-time.Hour).UnixNano() })},
		{"certificate too new", "certificates", Fail, "not valid for another", second(func(l *insightpb.LookResponse) { l.Certificates[0].NotBefore = now.Add(time.Hour).UnixNano() })},
		{"even", "size of the cluster", Warn, "2 voting members", func(in *Input) { in.List = in.List[:2] }},
		{"alone", "size of the cluster", Warn, "1 voting member", func(in *Input) { in.List = in.List[:1] }},
		{"learner", "size of the cluster", Warn, "is a learner", func(in *Input) { in.List[2].IsLearner = true }},
		{"plain", "security", Warn, "without TLS at http://0.0.0.0:2379", second(func(l *insightpb.LookResponse) { l.Member.ClientUrls = []string{"http://0.0.0.0:2379"} })},
		{"everybody", "security", Warn, "serves everybody", second(func(l *insightpb.LookResponse) { l.Member.ClientCertAuth = false })},
		{"plain peers", "security", Warn, "talks to members without TLS", second(func(l *insightpb.LookResponse) { l.Member.PeerUrls = []string{"http://node:2380"} })},
		{"slow watchers", "watchers", Warn, "3 of 5 watchers", both(func(l *insightpb.LookResponse) { l.Watches.SlowWatchers = 3 })},
		{"refused", "calls", Warn, "/etcdserverpb.KV/Put: 4 times Unavailable", second(func(l *insightpb.LookResponse) {
			l.Methods = append(l.Methods, &insightpb.Method{Name: "/etcdserverpb.KV/Put", Started: 4, Handled: map[string]uint64{"Unavailable": 4}})
		})},
		{"proposals", "calls", Warn, "2000 proposals wait", second(func(l *insightpb.LookResponse) { l.Raft.PendingProposals = 2000 })},
		{"no backup", "backup", Warn, "no snapshot was taken", func(in *Input) {
			for _, look := range in.Looks {
				for i := range look {
					look[i].Look.Methods[0].Handled, look[i].Look.Started = nil, now.Add(-48*time.Hour).UnixNano()
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := well()
			c.spoil(in)
			found := Examine(in)
			said := ""
			for _, f := range found {
				if f.Check == c.check && f.Level == c.level && strings.Contains(f.Member+": "+f.Found, c.found) {
					require.NotEmpty(t, f.Means)
					require.NotEmpty(t, f.Do)
					require.GreaterOrEqual(t, Worst(found).Code(), c.level.Code())
					return
				}
				said += string(f.Level) + " " + f.Check + ": " + f.Found + "\n"
			}
			require.Fail(t, "not found", said)
		})
	}
}

// TestFewDurations: a few slow syncs say nothing.
func TestFewDurations(t *testing.T) {
	in := well()
	for _, look := range in.Looks {
		for i := range look {
			look[i].Look.WalFsync = &insightpb.Durations{Bounds: []float64{1}, Counts: []uint64{0}, Count: 5}
		}
	}
	for _, f := range Examine(in) {
		if f.Check == "log syncs" {
			require.Equal(t, OK, f.Level)
			require.Contains(t, f.Found, "too few")
		}
	}
}

// TestSilence: members that tell nothing are no failure of the checks.
func TestSilence(t *testing.T) {
	for _, look := range []*insightpb.LookResponse{nil, {}} {
		m := survey.Member{Endpoint: "a", Look: look, Err: errors.New("gone"), Source: survey.Status}
		found := Examine(&Input{Now: now, Looks: [][]survey.Member{{m}}})
		for _, f := range found {
			if f.Check != "members" && f.Check != "leader" {
				require.Contains(t, []Level{OK, Unknown}, f.Level, f)
			}
		}
	}
}

func TestExposed(t *testing.T) {
	for url, want := range map[string]bool{
		"http://127.0.0.1:2379": false, "http://[::1]:2379": false, "http://localhost:2379": false, "unix:///run/s": false,
		"http://0.0.0.0:2379": true, "https://node:2379": true, "http://[::]:2379": true, "http://10.1.2.3:2379": true,
	} {
		require.Equal(t, want, exposed(url), url)
	}
}
