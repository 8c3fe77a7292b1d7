package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/api/integritypb"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestIntegrityMixed: members of Keelson compare with each other and leave etcd's alone. Of two that differ, with etcd's
// for the third, nobody can say who is right; with a majority it is known.
func TestIntegrityMixed(t *testing.T) {
	for name, c := range map[string]struct {
		kinds []kind
		said  string
	}{
		"one of etcd":  {[]kind{keelson, keelson, etcd}, "no majority"},
		"one of three": {[]kind{keelson, keelson, keelson}, "quarantined"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := startCluster(t, c.kinds)
			other, victim := cl.Members[0], cl.Members[1]
			for i := range 20 {
				putValue(t, cl.on[other], fmt.Sprintf("key-%d", i%15), fmt.Sprintf("value-%d", i))
			}
			eventually(t, func(context.Context) error {
				if metric(t, other, "keelson_integrity_members_compared") < 2 {
					return errors.New("nothing was compared")
				}
				return nil
			}, "comparison")
			require.Zero(t, metric(t, other, "keelson_integrity_mismatches_total"))
			cl.Stop(victim)
			falsify(t, victim, "value-18", "value-XX")
			cl.launch(victim)
			eventually(t, func(ctx context.Context) error {
				st, err := cl.on[victim].Status(ctx, &pb.StatusRequest{})
				if err == nil && !strings.Contains(fmt.Sprint(st.Errors), c.said) {
					err = fmt.Errorf("it says %q", st.Errors)
				}
				return err
			}, "the member finds out")
			for _, m := range cl.Members {
				if m != victim {
					putValue(t, cl.on[m], "after", "all")
				}
			}
		})
	}
}

// TestStressRefetchKilled kills a member again and again, -9, while it replaces its data under load. It always comes up, with the
// old data, in quarantine, or with the new ones, and in the end it has what the others have.
func TestStressRefetchKilled(t *testing.T) {
	servertest.Stress(t)
	c := startCluster(t, []kind{keelson, keelson, keelson}, "--snapshot-count=2000", "--snapshot-catchup-entries=200000", "--integrity-interval=50ms")
	victim := c.Members[2]
	for i := range 2000 {
		putValue(t, c.on[c.Members[0]], fmt.Sprintf("bulk-%d", i), fmt.Sprintf("value-%04d", i)+string(bytes.Repeat([]byte("."), 20_000)))
	}
	l := startLoad(t, c, 4)
	healed := 0
	for round := range 30 {
		c.Stop(victim)
		falsify(t, victim, fmt.Sprintf("value-%04d", round), "value-XXXX")
		c.run(victim)
		eventually(t, func(context.Context) error {
			if metric(t, victim, "keelson_integrity_quarantined") != 1 {
				return errors.New("not in quarantine")
			}
			return nil
		}, "quarantine")
		end := time.After(time.Duration(round) * 40 * time.Millisecond)
		answered := make(chan error, 1)
		go func() {
			_, err := integritypb.NewIntegrityClient(c.on[victim].conn).Refetch(context.Background(), &integritypb.RefetchRequest{})
			answered <- err
		}()
		<-end
		time.Sleep(rand.N(40 * time.Millisecond))
		c.Kill(victim)
		if <-answered == nil {
			healed++
		}
		c.run(victim)
		l.progress(50)
		eventually(t, func(context.Context) error {
			res, err := integritypb.NewIntegrityClient(c.on[victim].conn).Refetch(within(t, patience), &integritypb.RefetchRequest{})
			if err == nil && res.Quarantined {
				err = errors.New("still in quarantine")
			}
			return err
		}, "the member is healed in round %d", round)
	}
	t.Logf("healed before it was killed in %d rounds", healed)
	l.stop(c)
}
