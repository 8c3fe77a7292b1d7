package conformance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/kubernetes"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/server/servertest"
)

// Behaviours are functions that show that behaviours are held, by the names of these.
type Behaviours map[string]func(t *testing.T, e *Env)

// Env is what a behaviour works with.
type Env struct {
	*clustertest.Cluster
	// Client is an administrator.
	Client *kubernetes.Clientset
	// NS is a namespace of its own.
	NS string
	// Ctx ends when the test has taken too long.
	Ctx context.Context
}

// patience bounds a behaviour. It is generous: machines that run tests are busy.
const patience = 3 * time.Minute

// Test runs the behaviours of several literals on a cluster with its embedded store, and on one that uses the real etcd.
func Test(t *testing.T, literals ...Behaviours) { TestWith(t, nil, literals...) }

// TestWith is Test on clusters with options.
func TestWith(t *testing.T, options []clustertest.Option, literals ...Behaviours) {
	behaviours := Behaviours{}
	for _, l := range literals {
		for name, run := range l {
			require.NotContains(t, behaviours, name)
			behaviours[name] = run
		}
	}
	t.Run("keelson", func(t *testing.T) { suite(t, clustertest.Start(t, options...), behaviours) })
	t.Run("etcd", func(t *testing.T) {
		etcd := servertest.New(t, 1)
		etcd.RunProgram(etcd.Members[0], servertest.Oracle(t, "etcd"))
		etcd.WaitReady(etcd.Members...)
		suite(t, clustertest.Start(t, append(options, clustertest.Store(etcd.Addrs()...))...), behaviours)
	})
}

func suite(t *testing.T, c *clustertest.Cluster, behaviours Behaviours) {
	for _, alone := range []bool{false, true} {
		// The group ends when all of its parallel tests have.
		t.Run(map[bool]string{false: "together", true: "alone"}[alone], func(t *testing.T) {
			for name, run := range behaviours {
				if serial(name) == alone {
					t.Run(name, func(t *testing.T) {
						if !alone {
							t.Parallel()
						}
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						defer cancel()
						run(t, &Env{Cluster: c, Client: c.Client(t, nil), NS: c.Namespace(t), Ctx: ctx})
					})
				}
			}
		})
	}
}

func serial(name string) bool {
	return strings.Contains(name, "[Serial]") || strings.Contains(name, "[Disruptive]")
}
