package corruption

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/peers"
)

// says is what a member answers: its hash, or an error.
type says struct {
	mvcc.KVHash
	current int64
	err     error
	down    bool
}

func (s says) HashKV(int64) (mvcc.KVHash, int64, error) {
	return s.KVHash, max(s.current, s.Rev), s.err
}
func (s says) CompactHashes() []mvcc.KVHash { return []mvcc.KVHash{s.KVHash} }

// stage makes a checker for the first of some members; the others answer as they are told to. alarms are those that were raised,
// by the numbers of members; -1 is the whole cluster.
func stage(t *testing.T, all []says) (c *Checker, alarms func() []int) {
	var urls []string
	var handlers []*Checker
	for i, s := range all {
		h := &Checker{cfg: Config{Hasher: s, Logger: zap.NewNop()}}
		handlers = append(handlers, h)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.Handler().ServeHTTP(w, r) }))
		t.Cleanup(srv.Close)
		if s.down {
			srv.Close()
		}
		urls = append(urls, string(rune('a'+i))+"="+srv.URL)
	}
	members, err := membership.NewFromInitialCluster(membership.Config{}, "t", strings.Join(urls, ","))
	require.NoError(t, err)
	ids := map[uint64]int{0: -1}
	for i := range all {
		handlers[i].cfg.Members = members
		ids[members.MemberByName(string(rune('a'+i))).ID] = i
	}
	var raised []int
	return New(Config{
		MemberID: members.MemberByName("a").ID, Members: members, Hasher: all[0], IsLeader: func() bool { return true },
		Gate:  func(context.Context) error { return nil },
		Raise: func(_ context.Context, id uint64) error { raised = append(raised, ids[id]); return nil },
		Peers: http.DefaultClient, Timeout: 10 * time.Second, Clock: clock.Real, Logger: zap.NewNop(),
	}), func() []int { slices.Sort(raised); return raised }
}

func at(rev, compact int64, hash uint32) says {
	return says{KVHash: mvcc.KVHash{Hash: hash, CompactRev: compact, Rev: rev}}
}

func TestChecks(t *testing.T) {
	ahead := at(10, 5, 1)
	ahead.current = 11
	for name, c := range map[string]struct {
		members     []says
		initial     bool  // the first member does not start
		now         []int // whom the leader accuses when it looks at the present
		compactions []int // and when it looks at a compaction
		again       bool  // the compaction is looked at again
	}{
		"all equal":                {members: []says{at(10, 5, 1), at(10, 5, 1), at(10, 5, 1)}},
		"one differs":              {members: []says{at(10, 5, 1), at(10, 5, 1), at(10, 5, 2)}, initial: true, now: []int{2}, compactions: []int{2}, again: true},
		"the leader differs":       {members: []says{at(10, 5, 2), at(10, 5, 1), at(10, 5, 1)}, initial: true, now: []int{-2}, compactions: []int{0}, again: true},
		"all differ":               {members: []says{at(10, 5, 1), at(10, 5, 2), at(10, 5, 3)}, initial: true, now: []int{-2}, compactions: []int{-1}, again: true},
		"two differ":               {members: []says{at(10, 5, 1), at(10, 5, 2)}, initial: true, now: []int{1}, compactions: []int{-1}, again: true},
		"one is down":              {members: []says{at(10, 5, 1), at(10, 5, 1), {down: true}}, again: true},
		"down, and one differs":    {members: []says{at(10, 5, 1), at(10, 5, 2), {down: true}}, initial: true, now: []int{1}, compactions: []int{-1}, again: true},
		"another compact revision": {members: []says{at(10, 5, 1), at(10, 4, 2), at(10, 5, 1)}, again: true},
		"compacted ahead":          {members: []says{at(10, 5, 1), at(10, 6, 2), at(10, 5, 1)}, now: []int{1}, again: true},
		"ahead":                    {members: []says{at(10, 5, 1), ahead, at(10, 5, 1)}, now: []int{1}},
		"slow":                     {members: []says{at(10, 5, 1), {err: mvcc.ErrFutureRev}, {err: mvcc.ErrCompacted}}, again: true},
		"alone":                    {members: []says{at(10, 5, 1)}, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			k, _ := stage(t, c.members)
			err := k.Initial(t.Context())
			if c.initial {
				require.ErrorContains(t, err, "found data inconsistency with peers")
			} else {
				require.NoError(t, err)
			}

			k, alarms := stage(t, c.members)
			require.NoError(t, k.checkNow(t.Context()))
			if slices.Equal(c.now, []int{-2}) {
				require.Len(t, alarms(), 1, "one of the others, whoever answers first by its id")
			} else {
				require.Equal(t, c.now, alarms())
			}

			k, alarms = stage(t, c.members)
			require.NoError(t, k.checkCompactions(t.Context()))
			require.Equal(t, c.compactions, alarms())
			require.Equal(t, c.again, k.checked == 0)
		})
	}
}

// changing has another hash each time.
type changing struct {
	says
	n *uint32
}

func (c changing) HashKV(int64) (mvcc.KVHash, int64, error) {
	*c.n++
	h := c.KVHash
	h.Hash = *c.n
	return h, h.Rev, nil
}

// TestOwnHash accuses itself if the hash of one revision changes.
func TestOwnHash(t *testing.T) {
	k, alarms := stage(t, []says{at(10, 5, 1), at(10, 5, 1)})
	k.cfg.Hasher = changing{at(10, 5, 1), new(uint32)}
	require.NoError(t, k.checkNow(t.Context()))
	require.Equal(t, []int{0}, alarms())
}

// TestHandler is what etcd's handler answers.
func TestHandler(t *testing.T) {
	k, _ := stage(t, []says{at(10, -1, 7)})
	id := membership.FormatID(k.cfg.Members.ClusterID())
	failing, _ := stage(t, []says{{err: mvcc.ErrCompacted}})
	for _, c := range []struct {
		on                       *Checker
		method, cluster, body    string
		status                   int
		answer, contentType, own string
	}{
		{k, "GET", id, `{"revision":3}`, 200, `{"header":{"revision":10},"hash":7,"compact_revision":-1,"hash_revision":10}`, "application/json", id},
		{k, "GET", "", `{}`, 200, `{"header":{"revision":10},"hash":7,"compact_revision":-1,"hash_revision":10}`, "application/json", id},
		{k, "GET", "", "", 400, "error unmarshalling request\n", "text/plain; charset=utf-8", ""},
		{k, "GET", "1", "{}", 412, "cluster ID mismatch\n", "text/plain; charset=utf-8", ""},
		{k, "GET", "", strings.Repeat(" ", maxMessage+1), 400, "error reading body\n", "text/plain; charset=utf-8", ""},
		{k, "POST", id, "{}", 405, "Method Not Allowed\n", "text/plain; charset=utf-8", ""},
		{failing, "GET", "", "{}", 400, "mvcc: required revision has been compacted\n", "text/plain; charset=utf-8", ""},
	} {
		r := httptest.NewRequest(c.method, Path, strings.NewReader(c.body))
		if c.cluster != "" {
			r.Header.Set(peers.ClusterIDHeader, c.cluster)
		}
		w := httptest.NewRecorder()
		c.on.Handler().ServeHTTP(w, r)
		body, err := io.ReadAll(w.Result().Body)
		require.NoError(t, err)
		require.Equal(t, []any{c.status, c.answer, c.contentType, c.own},
			[]any{w.Code, string(body), w.Header().Get("Content-Type"), w.Header().Get(peers.ClusterIDHeader)}, "%+v", c)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"header":{"revision":10},"hash":7,"compact_revision":-1,"hash_revision":10}`))
	f.Add(400, []byte("mvcc: required revision has been compacted"))
	f.Add(200, []byte(`{"hash":-1}`))
	members, err := membership.NewFromInitialCluster(membership.Config{}, "t", "a=http://peer:1")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		k := New(Config{Members: members, Timeout: time.Minute, Peers: &http.Client{Transport: answering(func() *http.Response {
			return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(string(body)))}
		})}})
		resp, err := k.askOne(t.Context(), "http://peer", 1)
		require.Equal(t, resp == nil, err != nil)
		if err == nil {
			require.Equal(t, http.StatusOK, status)
			require.NoError(t, json.Unmarshal(body, &pb.HashKVResponse{}))
		}
	})
}

type answering func() *http.Response

func (a answering) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

// TestUnfinishedIsLogged has a member that has no hash of the leader's compaction.
func TestUnfinishedIsLogged(t *testing.T) {
	c, alarms := stage(t, []says{at(10, 5, 1), at(10, 4, 1)})
	core, logged := observer.New(zap.InfoLevel)
	c.cfg.Logger = zap.New(core)
	require.NoError(t, c.checkCompactions(context.Background()))
	require.Equal(t, 1, logged.FilterMessage("finished compaction hash check").Len())
	require.Empty(t, alarms())
}
