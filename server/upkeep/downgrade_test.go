package upkeep

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/membership"
)

// nowhere keeps nothing.
type nowhere struct{}

func (nowhere) Get(membership.Bucket, []byte) []byte                     { return nil }
func (nowhere) Put(membership.Bucket, []byte, []byte)                    {}
func (nowhere) Delete(membership.Bucket, []byte)                         {}
func (nowhere) ForEach(membership.Bucket, func(k, v []byte) error) error { return nil }

// led says whether this member leads.
type led bool

func (led) Term() uint64                       { return 1 }
func (l led) IsLeader() bool                   { return bool(l) }
func (led) FirstCommitInTerm() <-chan struct{} { return nil }
func (led) LeaderChanged() <-chan struct{}     { return nil }

// ended notes when the end of a downgrade is proposed.
type ended struct {
	start time.Time
	at    []time.Duration
	err   error
}

func (e *ended) Do(_ context.Context, r *pb.InternalRaftRequest) (apply.Result, error) {
	if r.DowngradeInfoSet != nil && !r.DowngradeInfoSet.Enabled {
		e.at = append(e.at, time.Since(e.start))
	}
	return apply.Result{}, e.err
}

func (e *ended) DoIn(ctx context.Context, _ uint64, r *pb.InternalRaftRequest) (apply.Result, error) {
	return e.Do(ctx, r)
}

// versions answers as a member of a version does.
type versions func() string

func (v versions) RoundTrip(r *http.Request) (*http.Response, error) {
	body := `{"etcdserver":"` + v() + `","etcdcluster":"3.7.0","storage":"3.7.0"}`
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// TestEndDowngrade ends a downgrade to this version when the last member runs it: by the leader, and no sooner.
func TestEndDowngrade(t *testing.T) {
	const interval, last = 5 * time.Second, 12 * time.Second // the other member comes back as this version then
	for _, c := range []struct {
		name     string
		leads    bool
		target   string // "": there is no downgrade
		interval time.Duration
		want     []time.Duration
	}{
		{"by the leader", true, "3.7.0", interval, []time.Duration{15 * time.Second, 20 * time.Second}}, // again: nothing is applied here
		{"by others", false, "3.7.0", interval, nil},
		{"no downgrade", true, "", interval, nil},
		{"to another version", true, "3.6.0", interval, nil},
		{"never", true, "3.7.0", 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				members, err := membership.NewFromInitialCluster(membership.Config{}, "t", "a=http://a:1,b=http://b:1")
				require.NoError(t, err)
				require.NoError(t, members.Attach(nowhere{}))
				members.SetIDs(members.MemberByName("a").ID, members.ClusterID())
				if c.target != "" {
					require.NoError(t, members.SetDowngrade(&membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: c.target}))
				}
				e := &ended{start: start}
				u := New(Config{
					Proposer: e, Raft: led(c.leads), Members: members, Timeout: time.Second, Clock: clock.Real, Logger: zap.NewNop(),
					Peers: &http.Client{Transport: versions(func() string {
						if time.Since(start) < last {
							return "3.8.1"
						}
						return "3.7.9"
					})},
				})
				ctx, cancel := context.WithTimeout(t.Context(), 22*time.Second)
				defer cancel()
				_ = u.EndDowngrade(ctx, c.interval)
				require.Equal(t, c.want, e.at)
			})
		})
	}
}
