package e2e

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestLinearKill judges a history under kill -9 and SIGSTOP of members that are programs.
func TestLinearKill(t *testing.T) {
	t.Parallel()
	linearPrograms(t, []kind{keelson, keelson, keelson}, 8)
}

func TestStressLinearKill(t *testing.T) {
	servertest.Stress(t)
	linearPrograms(t, []kind{keelson, keelson, keelson}, 120)
}

func TestStressLinearMixed(t *testing.T) {
	servertest.Stress(t)
	linearPrograms(t, []kind{keelson, etcd, keelson}, 60)
}

func linearPrograms(t *testing.T, kinds []kind, rounds int) {
	c := startCluster(t, kinds, "--snapshot-count=300", "--snapshot-catchup-entries=50")
	r := record(t, 8, c.services())
	for round := range rounds {
		m := c.Members[rand.IntN(3)]
		if round%2 == 0 {
			m = c.leader()
		}
		if round%4 < 2 {
			m.Pause()
			time.Sleep(500*time.Millisecond + rand.N(1200*time.Millisecond))
			m.Resume()
		} else {
			c.Kill(m)
			time.Sleep(rand.N(700 * time.Millisecond))
			c.run(m)
		}
		time.Sleep(rand.N(300 * time.Millisecond))
	}
	r.judge(t)
	c.agree()
}

func (c *cluster) services() []services {
	var out []services
	for _, m := range c.Members {
		out = append(out, c.on[m])
	}
	return out
}

// TestPausedLeader pauses a leader until there is another one and more was written. Reads that waited for it meanwhile
// must not be answered with what it knew.
func TestPausedLeader(t *testing.T) {
	t.Parallel()
	pausedLeader(t, 3)
}

func TestStressPausedLeader(t *testing.T) {
	servertest.Stress(t)
	pausedLeader(t, 60)
}

func pausedLeader(t *testing.T, rounds int) {
	c := startCluster(t, []kind{keelson, keelson, keelson})
	write := func(s services) (revision int64) {
		eventually(t, func(ctx context.Context) error {
			r, err := s.Put(ctx, &pb.PutRequest{Key: []byte("k")})
			revision = r.GetHeader().GetRevision()
			return err
		}, "put")
		return revision
	}
	for range rounds {
		old := c.leader()
		write(c.on[old])
		var rest []*member
		for _, m := range c.Members {
			if m != old {
				rest = append(rest, m)
			}
		}
		old.Pause()
		lead := c.leader(rest...)
		newest := write(c.on[lead])
		type answer struct {
			revision int64
			err      error
		}
		answers := make(chan answer, 20)
		for range cap(answers) {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				r, err := c.on[old].Range(ctx, &pb.RangeRequest{Key: []byte("k")})
				answers <- answer{r.GetHeader().GetRevision(), err}
			}()
		}
		time.Sleep(rand.N(100 * time.Millisecond))
		old.Resume()
		answered := 0
		for range cap(answers) {
			if a := <-answers; a.err == nil {
				answered++
				require.GreaterOrEqual(t, a.revision, newest, "a stale read of the leader that was paused")
			}
		}
		t.Logf("%d of %d reads answered", answered, cap(answers))
	}
	c.agree()
}

// TestLinearPartition judges a history under partitions of members in this process.
func TestLinearPartition(t *testing.T) {
	t.Parallel()
	linearPartition(t, 6)
}

func TestStressLinearPartition(t *testing.T) {
	servertest.Stress(t)
	linearPartition(t, 120)
}

func linearPartition(t *testing.T, rounds int) {
	inner := servertest.New(t, 3, append(servertest.Quick(), "--snapshot-count=300", "--snapshot-catchup-entries=50")...)
	level, errs := observer.New(zap.ErrorLevel)
	inner.Logger = zap.New(level)
	for _, m := range inner.Members {
		inner.Run(m)
	}
	inner.WaitReady(inner.Members...)
	c := &cluster{Cluster: inner, t: t, on: map[*member]services{}, kind: map[*member]kind{}}
	for _, m := range c.Members {
		c.on[m], c.kind[m] = dialAddr(t, m.Client), keelson
	}
	r := record(t, 8, c.services())
	for round := range rounds {
		x := c.leader()
		if round%3 == 1 {
			x = c.Members[rand.IntN(3)]
		}
		var cut [][2]*member
		for _, y := range c.Members {
			if y != x {
				cut = append(cut, [2]*member{x, y})
			}
		}
		if round%3 == 2 {
			cut = cut[:1] // the leader is heard by one of the others only
		}
		for _, p := range cut {
			p[0].Cut(p[1])
		}
		time.Sleep(300*time.Millisecond + rand.N(1500*time.Millisecond))
		for _, p := range cut {
			p[0].Mend(p[1])
		}
		time.Sleep(rand.N(300 * time.Millisecond))
	}
	r.judge(t)
	c.agree()
	require.Empty(t, errs.All(), "errors in the log")
}
