package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/servertest"
)

var mixtures = map[string][]kind{
	"etcd-majority":    {etcd, etcd, keelson},
	"keelson-majority": {keelson, keelson, etcd},
}

// TestMixed runs members of both kinds in one cluster.
func TestMixed(t *testing.T) { mixed(t, 1) }

func TestStressMixed(t *testing.T) {
	servertest.Stress(t)
	mixed(t, 10)
}

func mixed(t *testing.T, rounds int) {
	for name, kinds := range mixtures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flags := []string{"--snapshot-count=100", "--snapshot-catchup-entries=20"}
			if rounds == 1 {
				flags = append(flags, "--strict-reconfig-check=false") // the check wants connections that are five seconds old
			}
			c := startCluster(t, kinds, flags...)
			throughAny(t, c)
			l := startLoad(t, c, 4)
			for round := range rounds {
				for _, m := range c.Members {
					c.moveLeader(m)
					l.progress(50)
				}
				for _, lead := range c.Members[1:] {
					catchUp(t, c, l, lead, round == 0)
				}
				changeMembers(t, c, l, kinds[2])
				if rounds > 1 {
					changeMembers(t, c, l, kinds[2].other())
				}
			}
			l.stop(c)
		})
	}
}

// throughAny makes every kind of call through every member, under every leader.
func throughAny(t *testing.T, c *cluster) {
	for i, lead := range c.Members {
		c.moveLeader(lead)
		for j, m := range c.Members {
			populate(t, c.on[m], 1+10*i+j, 20)
			c.agree()
			state := stateOf(t, c.on[m])
			for _, other := range c.Members {
				st := stateOf(t, c.on[other])
				st.Member = state.Member
				require.Equal(t, state, st, "%s (%s) and %s (%s)", m.Name, c.kind[m], other.Name, c.kind[other])
			}
			keepAlive(t, c.on[m], int64(1000*(1+10*i+j)+1))
		}
	}
}

// keepAlive renews a lease through a member, which passes it on to the leader.
func keepAlive(t *testing.T, s services, id int64) {
	t.Helper()
	ctx := within(t, patience)
	stream, err := s.LeaseKeepAlive(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
	r, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, int64(3000), r.TTL)
	require.NoError(t, stream.CloseSend())
}

// catchUp takes a member of the other kind than the leader's down for so long that it needs a snapshot when it is back. A
// leader that has sent one lately keeps its log for half a minute: then the log will do as well, unless fresh.
func catchUp(t *testing.T, c *cluster, l *load, lead *member, fresh bool) {
	t.Helper()
	c.moveLeader(lead)
	var down *member
	for _, m := range c.Members {
		if c.kind[m] != c.kind[lead] {
			down = m
		}
	}
	var up []*member
	for _, m := range c.Members {
		if m != down {
			up = append(up, m)
		}
	}
	l.aim(c, up...)
	c.Kill(down)
	l.progress(300)
	require.Equal(t, lead, c.leader(up...), "the leader changed")
	c.run(down)
	l.aim(c, c.Members...)
	l.progress(100)
	eventually(t, func(ctx context.Context) error {
		if n := metric(t, down, "etcd_network_snapshot_receive_success"); n < 1 && fresh {
			return fmt.Errorf("%s (%s) received %v snapshots", down.Name, c.kind[down], n)
		}
		return behind(ctx, c, down, lead)
	}, "catch up")
}

// behind says how far a member is behind another one.
func behind(ctx context.Context, c *cluster, m, lead *member) error {
	a, err := c.on[lead].Status(ctx, &pb.StatusRequest{})
	b, err2 := c.on[m].Status(ctx, &pb.StatusRequest{})
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if b.RaftAppliedIndex+50 < a.RaftAppliedIndex {
		return fmt.Errorf("%s is at index %d, the leader at %d", m.Name, b.RaftAppliedIndex, a.RaftAppliedIndex)
	}
	return nil
}

// metric is the sum of a metric of a member, over its labels.
func metric(t *testing.T, m *member, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + m.Client + "/metrics")
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	sum := 0.0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, "{") {
			continue
		}
		n, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		require.NoError(t, err)
		sum += n
	}
	return sum
}

// changeMembers adds a member of the given kind as a learner, promotes it, and removes it.
func changeMembers(t *testing.T, c *cluster, l *load, k kind) {
	t.Helper()
	m := c.join(k, true)
	id := c.id(m)
	eventually(t, func(ctx context.Context) error {
		_, err := c.on[c.Members[0]].MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id})
		return err
	}, "promote %s", m.Name)
	l.aim(c, c.Members...)
	l.progress(50)
	c.moveLeader(m)
	l.progress(50)
	c.remove(m, c.Members[0])
	l.aim(c, c.Members...)
	l.progress(50)
}

// join adds a member and starts it.
func (c *cluster) join(k kind, learner bool) *member {
	c.t.Helper()
	via := c.Members[0]
	m := c.Add(c.Members[0].Flags...)
	c.kind[m], c.on[m] = k, dialAddr(c.t, m.Client)
	eventually(c.t, func(ctx context.Context) error {
		_, err := c.on[via].MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{m.PeerURL}, IsLearner: learner})
		if err != nil && c.listed(ctx, via, m) {
			return nil
		}
		return err
	}, "add %s", m.Name)
	c.launch(m)
	c.id(m) // a learner answers this and little else
	return m
}

// listed says whether a member is one of the cluster.
func (c *cluster) listed(ctx context.Context, via, m *member) bool {
	r, err := c.on[via].MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	if err != nil {
		return false
	}
	for _, have := range r.Members {
		if have.PeerURLs[0] == m.PeerURL {
			return true
		}
	}
	return false
}

// remove removes a member through another one, and waits until its program has ended.
func (c *cluster) remove(m, via *member) {
	c.t.Helper()
	id := c.id(m)
	eventually(c.t, func(ctx context.Context) error {
		_, err := c.on[via].MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		if err != nil && !c.listed(ctx, via, m) {
			return nil
		}
		return err
	}, "remove %s", m.Name)
	select {
	case <-m.Done():
	case <-time.After(patience):
		c.t.Errorf("%s (%s) does not end although it was removed", m.Name, c.kind[m])
	}
	c.Forget(m)
	c.leader()
}
