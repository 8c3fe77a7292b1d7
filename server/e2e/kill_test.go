package e2e

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestKill kills members of a cluster under load, -9: each of them alone, two, all three.
func TestKill(t *testing.T) {
	t.Parallel()
	killLoop(t, 5)
}

func TestStressKill(t *testing.T) {
	servertest.Stress(t)
	killLoop(t, 60)
}

func killLoop(t *testing.T, rounds int) {
	c := startCluster(t, []kind{keelson, keelson, keelson}, "--snapshot-count=300", "--snapshot-catchup-entries=50")
	l := startLoad(t, c, 6)
	for round := range rounds {
		victims := append([]*member(nil), c.Members...)
		rand.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
		victims = victims[:1+round%3]
		if round%6 == 0 {
			victims = []*member{c.leader()}
		}
		for _, m := range victims {
			c.Kill(m)
		}
		time.Sleep(rand.N(300 * time.Millisecond))
		c.run(victims...)
		l.progress(100)
	}
	l.stop(c)
}
