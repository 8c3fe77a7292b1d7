package membership

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memRows keeps the buckets in memory.
type memRows map[Bucket]map[string]string

func (r memRows) Get(b Bucket, key []byte) []byte {
	if v, ok := r[b][string(key)]; ok {
		return []byte(v)
	}
	return nil
}

func (r memRows) Put(b Bucket, key, value []byte) {
	if r[b] == nil {
		r[b] = map[string]string{}
	}
	r[b][string(key)] = string(value)
}

func (r memRows) Delete(b Bucket, key []byte) { delete(r[b], string(key)) }

func (r memRows) ForEach(b Bucket, fn func(k, v []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(r[b])) {
		if err := fn([]byte(k), []byte(r[b][k])); err != nil {
			return err
		}
	}
	return nil
}

func member(id uint64, url string) *Member {
	return &Member{ID: id, RaftAttributes: RaftAttributes{PeerURLs: []string{url}}}
}

func learner(id uint64, url string) *Member {
	m := member(id, url)
	m.IsLearner = true
	return m
}

// stored makes an attached cluster with applied members.
func storedCluster(t testing.TB, members ...*Member) (*Cluster, memRows) {
	rows := memRows{}
	c, err := Load(Config{MaxLearners: 1}, rows)
	require.NoError(t, err)
	for _, m := range members {
		require.NoError(t, c.Add(m))
	}
	return c, rows
}

// The ids are those that etcd 3.7.3 gave clusters with the same flags.
func TestIDsAreEtcds(t *testing.T) {
	c, err := NewFromInitialCluster(Config{}, "tok-1", "n1=http://127.0.0.1:23801")
	require.NoError(t, err)
	require.Equal(t, uint64(0xdcb73ccb4154c224), c.ClusterID())
	require.Equal(t, uint64(0xf7875276d5273a18), c.MemberByName("n1").ID)

	c, err = NewFromInitialCluster(Config{}, "etcd-cluster",
		"a=http://127.0.0.1:24801,b=http://127.0.0.1:24802,c=http://127.0.0.1:24804,c=http://127.0.0.1:24803")
	require.NoError(t, err)
	require.Equal(t, uint64(507783315410824400), c.ClusterID())
	require.Equal(t, uint64(17628310501313495538), c.MemberByName("a").ID)
	require.Equal(t, uint64(6678329523359872433), c.MemberByName("b").ID)
	require.Equal(t, uint64(904145344532415374), c.MemberByName("c").ID)
	require.Equal(t, []string{"http://127.0.0.1:24803", "http://127.0.0.1:24804"}, c.MemberByName("c").PeerURLs)
	require.Equal(t, []string{"http://127.0.0.1:24801", "http://127.0.0.1:24803", "http://127.0.0.1:24804"}, c.RemotePeerURLs("b"))
	require.Nil(t, c.MemberByName("d"))

	m, err := NewMember([]string{"http://127.0.0.1:23999", "http://127.0.0.1:23998"}, true, time.Unix(1795459743, 0))
	require.NoError(t, err)
	require.Equal(t, uint64(0x2e67a0f6d905949f), m.ID)
	require.True(t, m.IsLearner)
	_, err = NewMember(nil, true, time.Unix(0, 0))
	require.Error(t, err)
}

// The texts are what etcd 3.7.3 stored and proposed.
func TestJSON(t *testing.T) {
	m := &Member{
		ID:             17836315519559875096,
		RaftAttributes: RaftAttributes{PeerURLs: []string{"http://127.0.0.1:23801"}},
		Attributes:     Attributes{Name: "n1", ClientURLs: []string{"http://127.0.0.1:23791"}},
	}
	requireJSON(t, `{"id":17836315519559875096,"peerURLs":["http://127.0.0.1:23801"],"name":"n1","clientURLs":["http://127.0.0.1:23791"]}`, m)
	l := learner(18419223647723244973, "http://127.0.0.1:23997")
	requireJSON(t, `{"id":18419223647723244973,"peerURLs":["http://127.0.0.1:23997"],"isLearner":true}`, l)
	requireJSON(t, `{"id":18419223647723244973,"peerURLs":["http://127.0.0.1:23997"],"isLearner":true,"isPromote":false}`, ConfigChangeContext{Member: *l})
	requireJSON(t, `{"id":7,"peerURLs":null,"isPromote":true}`, ConfigChangeContext{Member: Member{ID: 7}, IsPromote: true})
}

func requireJSON(t *testing.T, want string, v any) {
	t.Helper()
	got, err := json.Marshal(v)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func TestInitialClusterErrors(t *testing.T) {
	for _, s := range []string{"a", "a=", "a=http://host", "a=ftp://host:1", "a=http://h:1/path", "a=http://h:%1", "a=http://h:1,a=http://h:1/x"} {
		_, err := NewFromInitialCluster(Config{}, "t", s)
		require.Error(t, err, s)
	}
	_, err := NewFromInitialCluster(Config{}, "t", "a=http://h:1,b=http://h:1")
	require.ErrorContains(t, err, "same ID")
	c, err := NewFromInitialCluster(Config{}, "t", ",a=http://h:1,,")
	require.NoError(t, err)
	require.Len(t, c.Members(), 1)
	_, err = NewFromInitialCluster(Config{}, "t", "a=unix://sock:1,a= https://h:2 ")
	require.NoError(t, err)
}

func TestValidateURLs(t *testing.T) {
	require.NoError(t, ValidateURLs([]string{"http://a:1", "https://[::1]:2", "unix:///tmp/x", "unixs://y"}))
	for _, bad := range [][]string{nil, {""}, {"a:1"}, {"http://a"}, {"http://a:1/"}, {"http://a:1", "://"}} {
		require.Error(t, ValidateURLs(bad), bad)
	}
}

func TestCheckSelf(t *testing.T) {
	for _, tc := range []struct {
		initial, name string
		advertised    []string
		founding      bool
		err           string
	}{
		{initial: "a=http://127.0.0.1:1,b=http://127.0.0.1:2", name: "a", advertised: []string{"http://127.0.0.1:1"}, founding: true},
		{initial: "a=http://[::1]:1", name: "a", advertised: []string{"http://[0:0::1]:1"}, founding: true},
		{initial: "a=http://localhost:1", name: "a", advertised: []string{"http://localhost:2"}, founding: true, err: "--initial-cluster has a=http://localhost:1 but missing"},
		{initial: "a=http://127.0.0.1:1", name: "a", advertised: []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}, founding: true, err: "--initial-advertise-peer-urls has http://127.0.0.1:2"},
		{initial: "a=http://127.0.0.1:1", name: "a", advertised: nil, founding: true, err: "no valid URLs"},
		{initial: "a=http://127.0.0.1:1", name: "a", advertised: []string{"http://127.0.0.1:9"}, founding: false},
		{initial: "a=http://127.0.0.1:1", name: "x", advertised: []string{"http://127.0.0.1:1"}, founding: false, err: `couldn't find local name "x"`},
		{initial: "a=http://127.0.0.1:1,b=http://127.0.0.1:2,b=http://127.0.0.1:1", name: "a", advertised: []string{"http://127.0.0.1:1"}, err: "duplicate url"},
		{initial: "", name: "a", advertised: []string{"http://127.0.0.1:1"}, err: "couldn't find"},
	} {
		c, err := NewFromInitialCluster(Config{}, "t", tc.initial)
		require.NoError(t, err)
		err = c.CheckSelf(tc.name, tc.advertised, tc.founding)
		if tc.err == "" {
			require.NoError(t, err, tc)
		} else {
			require.ErrorContains(t, err, tc.err, tc)
		}
	}
}

func TestAdoptIDs(t *testing.T) {
	c, err := NewFromInitialCluster(Config{}, "t", "a=http://127.0.0.1:1,b=http://127.0.0.1:3,b=http://127.0.0.1:2")
	require.NoError(t, err)
	two := member(22, "http://127.0.0.1:2")
	two.PeerURLs = append(two.PeerURLs, "http://127.0.0.1:3")
	require.NoError(t, c.AdoptIDs(newFromMembers(99, []*Member{member(11, "http://127.0.0.1:1"), two})))
	require.Equal(t, uint64(99), c.ClusterID())
	require.Equal(t, uint64(11), c.MemberByName("a").ID)
	require.Equal(t, uint64(22), c.MemberByName("b").ID)
	require.Len(t, c.Members(), 2)

	require.ErrorContains(t, c.AdoptIDs(newFromMembers(99, []*Member{two})), "member count is unequal")
	require.ErrorContains(t, c.AdoptIDs(newFromMembers(99, []*Member{member(11, "http://127.0.0.1:7"), two})), "no match found for existing member (b")
	require.ErrorContains(t, c.AdoptIDs(newFromMembers(99, []*Member{member(11, "http://127.0.0.1:1"), member(12, "http://127.0.0.1:1")})), "no match found for existing member (c")
	require.Equal(t, uint64(22), c.MemberByName("b").ID, "a failure changes nothing")
}

func TestChangesAreStored(t *testing.T) {
	c, rows := storedCluster(t, member(1, "http://a:1"), learner(0xfe, "http://b:1"))
	require.NoError(t, c.SetAttributes(&membershippb.ClusterMemberAttrSetRequest{
		Member_ID: 1, MemberAttributes: &membershippb.Attributes{Name: "n", ClientUrls: []string{"http://c:2"}},
	}))
	require.NoError(t, c.Promote(0xfe))
	require.NoError(t, c.UpdateRaftAttributes(0xfe, RaftAttributes{PeerURLs: []string{"http://b:2"}, IsLearner: true}))
	require.NoError(t, c.SetVersion(&membershippb.ClusterVersionSetRequest{Ver: "3.6.0"}))
	require.NoError(t, c.SetDowngrade(&membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: "3.5.0"}))
	require.NoError(t, c.Add(member(3, "http://d:1")))
	require.NoError(t, c.Remove(3))
	require.Equal(t, memRows{
		BucketMembers: {
			"1":  `{"id":1,"peerURLs":["http://a:1"],"name":"n","clientURLs":["http://c:2"]}`,
			"fe": `{"id":254,"peerURLs":["http://b:2"]}`,
		},
		BucketRemoved: {"3": "removed"},
		BucketCluster: {"clusterVersion": "3.6.0", "downgrade": `{"target-version":"3.5.0","enabled":true}`},
	}, rows)

	again, err := Load(Config{}, rows)
	require.NoError(t, err)
	require.Equal(t, c.Members(), again.Members())
	require.True(t, again.IsRemoved(3))
	require.False(t, again.IsRemoved(1))
	require.Equal(t, "3.6.0", again.Version())
	require.Equal(t, DowngradeInfo{"3.5.0", true}, again.Downgrade())
	require.NoError(t, again.SetDowngrade(&membershippb.DowngradeInfoSetRequest{Ver: "3.5.0"}))
	require.JSONEq(t, `{"target-version":"","enabled":false}`, rows[BucketCluster]["downgrade"])
	require.Equal(t, DowngradeInfo{}, again.Downgrade())

	// Another snapshot's contents replace all of that.
	require.NoError(t, c.Restore(memRows{BucketMembers: {"5": `{"peerURLs":["http://e:1"]}`}}))
	require.Equal(t, []*Member{member(5, "http://e:1")}, c.Members())
	require.Empty(t, c.Version())
	require.False(t, c.IsRemoved(3))
}

func TestChangesOfMissingMembers(t *testing.T) {
	c, rows := storedCluster(t, member(1, "http://a:1"))
	require.NoError(t, c.Promote(9))
	require.NoError(t, c.UpdateRaftAttributes(9, RaftAttributes{}))
	require.NoError(t, c.Remove(8))
	require.NoError(t, c.SetAttributes(&membershippb.ClusterMemberAttrSetRequest{Member_ID: 8}))
	require.ErrorContains(t, c.SetAttributes(&membershippb.ClusterMemberAttrSetRequest{Member_ID: 9}), "unknown")
	require.ErrorContains(t, c.SetVersion(&membershippb.ClusterVersionSetRequest{Ver: "x"}), "cluster version")
	require.ErrorContains(t, c.SetVersion(&membershippb.ClusterVersionSetRequest{Ver: "3.8.0"}), "older than")
	require.Len(t, rows[BucketMembers], 1)
	require.Empty(t, rows[BucketCluster])
}

func TestBeforeAttach(t *testing.T) {
	c, err := NewFromInitialCluster(Config{}, "t", "a=http://h:1")
	require.NoError(t, err)
	id := c.MemberByName("a").ID
	for _, err := range []error{
		c.Add(member(1, "http://a:1")), c.Remove(id), c.Promote(id),
		c.SetAttributes(&membershippb.ClusterMemberAttrSetRequest{Member_ID: id}),
		c.SetVersion(&membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}), c.SetDowngrade(nil),
	} {
		require.ErrorIs(t, err, errNotAttached)
	}
	require.ErrorContains(t, c.Attach(memRows{BucketMembers: {"1": `{"id":1}`}}), "the log is missing")
	require.NoError(t, c.Attach(memRows{}))
	require.NoError(t, c.Promote(id))
}

func TestCorruptRows(t *testing.T) {
	for _, rows := range []memRows{
		{BucketMembers: {"x": `{}`}},
		{BucketMembers: {"1": `{`}},
		{BucketMembers: {"1": `{"id":2}`}},
		{BucketRemoved: {"zz": "removed"}},
		{BucketCluster: {versionKey: "3"}},
		{BucketCluster: {versionKey: "3.9.0"}},
		{BucketCluster: {downgradeKey: "{"}},
		{BucketCluster: {downgradeKey: `{"enabled":true,"target-version":"x"}`}},
	} {
		_, err := Load(Config{}, rows)
		require.Error(t, err, rows)
	}
	c, _ := storedCluster(t, member(1, "http://a:1"))
	require.Error(t, c.Restore(memRows{BucketMembers: {"x": `{}`}}))
	require.Len(t, c.Members(), 1)
	require.Error(t, c.Attach(memRows{BucketRemoved: {"zz": ""}}))
}

func TestCopies(t *testing.T) {
	m := member(1, "http://a:1")
	c, _ := storedCluster(t, m)
	m.PeerURLs[0] = "changed"
	c.Members()[0].PeerURLs[0] = "changed"
	c.Member(1).PeerURLs[0] = "changed"
	require.Equal(t, "http://a:1", c.Member(1).PeerURLs[0])
	require.Nil(t, c.Member(2))
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	for range 2 { // a second cluster on the same registry is no error
		c, err := Load(Config{Registerer: reg}, memRows{})
		require.NoError(t, err)
		require.NoError(t, c.Add(learner(1, "http://a:1")))
		require.NoError(t, c.Add(member(2, "http://b:1")))
		c.SetIDs(1, 7)
		require.True(t, c.IsLearner())
		require.NoError(t, c.Remove(2))
		require.NoError(t, c.SetVersion(&membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}))
		want := map[string]float64{
			"etcd_cluster_version cluster_version=3.7":  1,
			"etcd_network_known_peers Local=1 Remote=1": 1,
			"etcd_network_known_peers Local=1 Remote=2": 0,
			"etcd_server_is_learner":                    1,
		}
		require.Equal(t, want, gauges(t, reg))
		require.NoError(t, c.Promote(1))
		want["etcd_server_is_learner"] = 0
		require.Equal(t, want, gauges(t, reg))
	}
}

func gauges(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	families, err := reg.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue()
		}
	}
	return out
}

func TestForEachErrorIsReturned(t *testing.T) {
	boom := errors.New("boom")
	_, err := Load(Config{}, failingRows{memRows{}, boom})
	require.ErrorIs(t, err, boom)
}

type failingRows struct {
	memRows
	err error
}

func (f failingRows) ForEach(Bucket, func(k, v []byte) error) error { return f.err }
