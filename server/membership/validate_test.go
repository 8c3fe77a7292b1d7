package membership

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/errdefs"
)

func change(t testing.TB, typ raftpb.ConfChangeType, id uint64, context any) *raftpb.ConfChange {
	data, err := json.Marshal(context)
	require.NoError(t, err)
	return &raftpb.ConfChange{Type: typ.Enum(), NodeId: proto.Uint64(id), Context: data}
}

func TestValidateConfigurationChange(t *testing.T) {
	c, _ := storedCluster(t, member(1, "http://a:1"), member(2, "http://b:1"), learner(3, "http://c:1"), member(9, "http://i:1"))
	require.NoError(t, c.Remove(9))
	add := func(m *Member) any { return ConfigChangeContext{Member: *m} }
	promote := func(id uint64) any { return ConfigChangeContext{Member: Member{ID: id}, IsPromote: true} }
	const addNode, addLearner = raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode
	const remove, update = raftpb.ConfChangeRemoveNode, raftpb.ConfChangeUpdateNode
	for name, tc := range map[string]struct {
		cc   *raftpb.ConfChange
		want error
	}{
		"add":                          {change(t, addNode, 4, add(member(4, "http://d:1"))), nil},
		"add a removed one":            {change(t, addNode, 9, add(member(9, "http://d:1"))), ErrIDRemoved},
		"promote a removed one":        {change(t, addNode, 9, promote(9)), ErrIDRemoved},
		"remove a removed one":         {change(t, remove, 9, nil), ErrIDRemoved},
		"update a removed one":         {change(t, update, 9, member(9, "http://d:1")), ErrIDRemoved},
		"add an existing one":          {change(t, addNode, 1, add(member(1, "http://d:1"))), ErrIDExists},
		"exists before url":            {change(t, addNode, 1, add(member(1, "http://b:1"))), ErrIDExists},
		"add with another's url":       {change(t, addNode, 4, add(member(4, "http://b:1"))), ErrPeerURLExists},
		"url before too many learners": {change(t, addLearner, 4, add(learner(4, "http://b:1"))), ErrPeerURLExists},
		"too many learners":            {change(t, addLearner, 4, add(learner(4, "http://d:1"))), ErrTooManyLearners},
		"learner without saying so":    {change(t, addLearner, 4, add(member(4, "http://d:1"))), nil},
		"learner added as voter":       {change(t, addNode, 4, add(learner(4, "http://d:1"))), nil},
		"promote":                      {change(t, addNode, 3, promote(3)), nil},
		"promote an unknown one":       {change(t, addNode, 4, promote(4)), ErrIDNotFound},
		"promote a voter":              {change(t, addNode, 1, promote(1)), ErrMemberNotLearner},
		"remove":                       {change(t, remove, 1, nil), nil},
		"remove an unknown one":        {change(t, remove, 4, nil), ErrIDNotFound},
		"update":                       {change(t, update, 1, member(1, "http://d:1")), nil},
		"update to the same":           {change(t, update, 1, member(1, "http://a:1")), nil},
		"update an unknown one":        {change(t, update, 4, member(4, "http://d:1")), ErrIDNotFound},
		"update to another's url":      {change(t, update, 1, member(1, "http://c:1")), ErrPeerURLExists},
		"the url of a removed one":     {change(t, addNode, 4, add(member(4, "http://i:1"))), nil},
	} {
		if tc.want == nil {
			require.NoError(t, c.ValidateConfigurationChange(tc.cc), name)
		} else {
			require.ErrorIs(t, c.ValidateConfigurationChange(tc.cc), tc.want, name)
		}
	}
	bad := &raftpb.ConfChange{Type: addNode.Enum(), NodeId: proto.Uint64(4), Context: []byte("{")}
	require.ErrorContains(t, c.ValidateConfigurationChange(bad), "context")
	bad = &raftpb.ConfChange{Type: update.Enum(), NodeId: proto.Uint64(1), Context: []byte("{")}
	require.ErrorContains(t, c.ValidateConfigurationChange(bad), "context")
	bad = &raftpb.ConfChange{Type: raftpb.ConfChangeType(7).Enum(), NodeId: proto.Uint64(1)}
	require.ErrorContains(t, c.ValidateConfigurationChange(bad), "unknown type")
}

// What the configuration says is no reason to refuse the entries that found the cluster.
func TestFoundingEntriesAreAccepted(t *testing.T) {
	c, err := NewFromInitialCluster(Config{}, "t", "a=http://h:1,b=http://h:2")
	require.NoError(t, err)
	rows := memRows{}
	require.NoError(t, c.Attach(rows))
	require.Len(t, c.Members(), 2)
	for _, m := range c.Members() {
		cc := change(t, raftpb.ConfChangeAddNode, m.ID, m)
		require.NoError(t, c.ValidateConfigurationChange(cc))
		require.NoError(t, c.Add(m))
		require.ErrorIs(t, c.ValidateConfigurationChange(cc), ErrIDExists)
	}
	require.Len(t, c.Members(), 2)
	require.Len(t, rows[BucketMembers], 2)
	require.Equal(t, "a", c.MemberByName("a").Name)
}

func started(id uint64) *Member {
	m := member(id, "http://"+FormatID(id)+":1")
	m.Name = "n"
	return m
}

func idle(id uint64) *Member { return member(id, "http://"+FormatID(id)+":1") }

func TestStrictChecks(t *testing.T) {
	type row struct {
		members              []*Member
		add, remove, promote bool // remove: of member 1
	}
	for i, r := range []row{
		{[]*Member{started(1)}, true, false, true},
		{[]*Member{idle(1)}, false, false, false},
		{[]*Member{started(1), started(2)}, true, true, true},
		{[]*Member{started(1), idle(2)}, false, false, true},
		{[]*Member{started(1), started(2), idle(3)}, false, false, true},
		{[]*Member{started(1), started(2), started(3)}, true, true, true},
		{[]*Member{started(1), idle(2), idle(3)}, false, false, false},
		{[]*Member{idle(1), started(2), started(3)}, false, true, true},
		{[]*Member{started(1), learner(4, "http://4:1")}, true, false, true},
	} {
		c, _ := storedCluster(t, r.members...)
		require.Equal(t, r.add, c.IsReadyToAddVotingMember(), "add %d", i)
		require.Equal(t, r.remove, c.IsReadyToRemoveVotingMember(1), "remove %d", i)
		require.Equal(t, r.promote, c.IsReadyToPromote(), "promote %d", i)
	}
}

func TestStrictChecksOfActivity(t *testing.T) {
	now := time.Unix(1000, 0)
	long, short := now.Add(-time.Minute), now.Add(-time.Second)
	activity := func(m map[uint64]time.Time) Activity { return func(id uint64) time.Time { return m[id] } }
	c, _ := storedCluster(t, started(1), started(2), started(3), learner(4, "http://4:1"))
	c.SetIDs(1, 7)

	all := activity(map[uint64]time.Time{2: long, 3: long})
	one := activity(map[uint64]time.Time{2: long, 3: short})
	none := activity(nil)
	require.NoError(t, c.MayAdd(idle(5), all, now))
	require.ErrorIs(t, c.MayAdd(idle(5), one, now), errdefs.ErrUnhealthy)
	require.ErrorIs(t, c.MayAdd(learner(5, "http://5:1"), one, now), errdefs.ErrUnhealthy)

	require.NoError(t, c.MayRemove(2, all, now))
	require.ErrorIs(t, c.MayRemove(2, one, now), errdefs.ErrUnhealthy)
	require.NoError(t, c.MayRemove(3, activity(map[uint64]time.Time{2: long}), now), "one that is down may go")
	require.ErrorIs(t, c.MayRemove(1, one, now), errdefs.ErrUnhealthy)
	require.NoError(t, c.MayRemove(4, none, now), "a learner may go")
	require.NoError(t, c.MayPromote(4))

	c, _ = storedCluster(t, started(1))
	c.SetIDs(1, 7)
	require.NoError(t, c.MayAdd(idle(5), none, now), "a cluster of one may grow")
	require.ErrorIs(t, c.MayRemove(1, none, now), errdefs.ErrNotEnoughStartedMembers)
	c, _ = storedCluster(t, started(1), idle(2), idle(3))
	require.ErrorIs(t, c.MayAdd(idle(5), none, now), errdefs.ErrNotEnoughStartedMembers)
	require.ErrorIs(t, c.MayPromote(5), errdefs.ErrNotEnoughStartedMembers)
}

func TestCheckLearners(t *testing.T) {
	c, _ := storedCluster(t, learner(1, "http://a:1"))
	require.NoError(t, c.CheckLearners())
	require.NoError(t, c.Add(learner(2, "http://b:1")))
	require.ErrorIs(t, c.CheckLearners(), ErrTooManyLearners)
}

func TestNewerVersion(t *testing.T) {
	for _, tc := range []struct {
		v, than string
		newer   bool
	}{{"3.7", "3.7", false}, {"3.7.1", "3.7", true}, {"3.6", "3.7", false}, {"3.10.0", "3.7", true}, {"4.0", "3.7.3", true}} {
		newer, err := NewerVersion(tc.v, tc.than)
		require.NoError(t, err)
		require.Equal(t, tc.newer, newer, tc)
	}
	for _, bad := range []string{"", "3", "3.x", "3.7.1.2", "not_decided"} {
		_, err := NewerVersion(bad, "3.7")
		require.Error(t, err, bad)
		_, err = NewerVersion("3.7", bad)
		require.Error(t, err, bad)
	}
}

func TestDecideVersion(t *testing.T) {
	for _, tc := range []struct {
		present, target string
		members         []string // "": did not answer
		want, err       string
	}{
		{want: "3.0.0", members: []string{""}},
		{want: "3.0.0"},
		{want: "3.6.0", members: []string{"3.7.3", "3.6.9"}},
		{want: "3.0.0", members: []string{"3.7.3", "rubbish"}},
		{present: "3.6.0", want: "3.7.0", members: []string{"3.7.3", "3.7.0"}},
		{present: "3.6.0", members: []string{"3.7.3", "3.6.1"}},
		{present: "3.6.0", members: []string{"3.7.3", ""}},
		{present: "3.7.0", members: []string{"3.7.3", "3.6.1"}},
		{present: "3.7.0", target: "3.6.0", want: "3.6.0", members: []string{"3.7.3", "3.7.1"}},
		{present: "3.6.0", target: "3.6.0", members: []string{"3.7.3"}},
		{present: "3.7.0", target: "3.5.0", err: "invalid downgrade target", members: []string{"3.7.3"}},
		{present: "3.7.0", target: "3.6.0", err: "invalid downgrade target", members: []string{"3.7.3", "3.6.1"}},
		{present: "3.7.0", target: "x", err: "downgrade target", members: []string{"3.7.3"}},
	} {
		c, _ := storedCluster(t)
		if tc.present != "" {
			v, err := parseVersion(tc.present)
			require.NoError(t, err)
			c.version = v
		}
		c.downgrade = DowngradeInfo{tc.target, tc.target != ""}
		got, err := c.DecideVersion(versions(tc.members...))
		if tc.err != "" {
			require.ErrorContains(t, err, tc.err, tc)
			continue
		}
		require.NoError(t, err, tc)
		require.Equal(t, tc.want, got, tc)
	}
}

func versions(vs ...string) map[uint64]*version.Versions {
	out := map[uint64]*version.Versions{}
	for i, v := range vs {
		out[uint64(i+1)] = nil
		if v != "" {
			out[uint64(i+1)] = &version.Versions{Server: v}
		}
	}
	return out
}

func TestDowngradeDone(t *testing.T) {
	c, _ := storedCluster(t)
	require.False(t, c.DowngradeDone(versions("3.6.1")))
	c.downgrade = DowngradeInfo{"3.6.0", true}
	require.True(t, c.DowngradeDone(versions("3.6.1", "3.6.4")))
	require.False(t, c.DowngradeDone(versions("3.6.1", "3.7.3")))
	require.False(t, c.DowngradeDone(versions("3.6.1", "")))
	require.False(t, c.DowngradeDone(versions("x")))
	c.downgrade.TargetVersion = "x"
	require.False(t, c.DowngradeDone(versions("3.6.1")))
}

func TestCheckDowngrade(t *testing.T) {
	for in, want := range map[string]string{"3.6": "3.6.0", "3.6.0": "3.6.0", "3.6.7": "3.6.0", "3": "", "": "", "v3.6": "", "3.6.x": ""} {
		got, err := ParseTarget(in)
		if require.Equal(t, want, got, in); want == "" {
			require.ErrorIs(t, err, errdefs.ErrWrongDowngradeVersionFormat)
		}
	}
	c, _ := storedCluster(t)
	require.ErrorIs(t, c.CheckDowngrade("3.6.0"), errdefs.ErrClusterVersionUnavailable)
	c.version = ownVersion()
	require.NoError(t, c.CheckDowngrade("3.6.0"))
	for _, bad := range []string{"3.5.0", "3.7.0", "2.6.0", "3.8.0"} {
		require.ErrorIs(t, c.CheckDowngrade(bad), errdefs.ErrInvalidDowngradeTargetVersion)
	}
	c.downgrade = DowngradeInfo{"3.6.0", true}
	require.ErrorIs(t, c.CheckDowngrade("3.6.0"), errdefs.ErrDowngradeInProcess)
	require.ErrorIs(t, c.CheckDowngrade("3.5.0"), errdefs.ErrInvalidDowngradeTargetVersion)
}
