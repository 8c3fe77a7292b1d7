package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/servertest"
)

// readBudget is how long linearizable reads may fail while a member is replaced: some elections of half a second to one
// second each, on a busy machine.
const readBudget = 6 * time.Second

// TestReplaceInPlace replaces three members of etcd by Keelson, one at a time on their data directories, and goes back.
func TestReplaceInPlace(t *testing.T) {
	t.Parallel()
	replaceInPlace(t, 1)
}

// TestReplaceFresh does it by removing members and adding new ones with empty directories.
func TestReplaceFresh(t *testing.T) {
	t.Parallel()
	replaceFresh(t, 1, 1, "--strict-reconfig-check=false") // with the check, connections must be five seconds old
}

func TestStressReplaceInPlace(t *testing.T) {
	servertest.Stress(t)
	replaceInPlace(t, 8)
}

func TestStressReplaceFresh(t *testing.T) {
	servertest.Stress(t)
	replaceFresh(t, 4, 3)
}

func replaceInPlace(t *testing.T, rounds int) {
	c := startCluster(t, []kind{etcd, etcd, etcd}, "--snapshot-count=200", "--snapshot-catchup-entries=50")
	populate(t, c.on[c.Members[0]], 1, 120)
	leases := stateOf(t, c.on[c.Members[0]]).Leases
	l := startLoad(t, c, 4)
	for round := range 2 * rounds {
		for i, m := range c.Members {
			l.takeGap()
			if (round+i)%2 == 0 {
				c.Stop(m)
			} else {
				c.Kill(m)
			}
			c.kind[m] = c.kind[m].other()
			c.run(m)
			l.progress(50)
			gap := l.takeGap()
			require.Less(t, gap, readBudget, "no linearizable read while %s became %s", m.Name, c.kind[m])
			t.Logf("%s became %s: longest time without a read %s", m.Name, c.kind[m], gap.Round(time.Millisecond))
		}
	}
	l.stop(c)
	for _, m := range c.Members {
		require.Equal(t, leases, stateOf(t, c.on[m]).Leases)
	}
}

// replaceFresh replaces all members by Keelson and then some of them by etcd, by rounds.
func replaceFresh(t *testing.T, rounds, back int, flags ...string) {
	c := startCluster(t, []kind{etcd, etcd, etcd}, append(flags, "--snapshot-count=200", "--snapshot-catchup-entries=50")...)
	populate(t, c.on[c.Members[0]], 1, 120)
	leases := stateOf(t, c.on[c.Members[0]]).Leases
	l := startLoad(t, c, 4)
	for round := range 2 * rounds {
		next, n := keelson, 3
		if round%2 == 1 {
			next, n = etcd, back
		}
		for range n {
			old := c.Members[0]
			l.takeGap()
			l.aim(c, c.Members[1:]...)
			c.remove(old, c.Members[1])
			fresh := c.join(next, false)
			c.WaitReady(fresh)
			l.aim(c, c.Members...)
			l.progress(50)
			gap := l.takeGap()
			require.Less(t, gap, readBudget, "no linearizable read while %s was replaced by %s (%s)", old.Name, fresh.Name, next)
			t.Logf("%s became %s (%s): longest time without a read %s", old.Name, fresh.Name, next, gap.Round(time.Millisecond))
		}
	}
	l.stop(c)
	for _, m := range c.Members {
		require.Equal(t, leases, stateOf(t, c.on[m]).Leases)
	}
}
