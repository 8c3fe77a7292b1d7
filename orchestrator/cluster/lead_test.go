package cluster

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

// election is a process that wants to lead.
type election struct {
	client *fake.Clientset
	began  chan struct{}
	ended  chan error
}

// join begins to lead, or to wait, with work that ends with its context, after a while.
func join(ctx context.Context, client *fake.Clientset) *election {
	e := &election{client: client, began: make(chan struct{}), ended: make(chan error, 1)}
	go func() {
		e.ended <- lead(ctx, client, "work", prometheus.NewRegistry(), zap.NewNop(), func(ctx context.Context) error {
			close(e.began)
			<-ctx.Done()
			time.Sleep(time.Second)
			return nil
		})
	}()
	return e
}

func (e *election) leads() bool {
	synctest.Wait()
	select {
	case <-e.began:
		return true
	default:
		return false
	}
}

// TestLead has a second process wait for a first one that ends in order: it does not begin before the first one's work has
// ended, and does not wait until the lease runs out.
func TestLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		firstCtx, stopFirst := context.WithCancel(t.Context())
		first := join(firstCtx, client)
		require.True(t, first.leads(), "nobody else is there: at once")
		secondCtx, stopSecond := context.WithCancel(t.Context())
		second := join(secondCtx, client)
		time.Sleep(time.Minute)
		require.False(t, second.leads())

		stopFirst()
		time.Sleep(time.Second / 2)
		require.False(t, second.leads(), "the first one's work has not ended")
		require.NoError(t, <-first.ended)
		time.Sleep(3 * retryPeriod) // it tries after one period to 2.2
		require.True(t, second.leads())
		stopSecond()
		require.NoError(t, <-second.ended)
		l, err := client.CoordinationV1().Leases(systemNamespace).Get(context.Background(), "work", metav1.GetOptions{})
		require.NoError(t, err)
		require.Empty(t, *l.Spec.HolderIdentity, "it is given back")
	})
}

// TestLeaseLost has the API server refuse to renew a lease: the work ends, with an error.
func TestLeaseLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var refuse atomic.Bool
		client.PrependReactor("update", "leases", func(ktesting.Action) (bool, runtime.Object, error) {
			return refuse.Load(), nil, apierrors.NewServiceUnavailable("no quorum")
		})
		e := join(t.Context(), client)
		require.True(t, e.leads())
		refuse.Store(true)
		require.ErrorIs(t, <-e.ended, errLeaseLost)
	})
}

// TestLeadFails has work that fails by itself.
func TestLeadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		err := lead(t.Context(), fake.NewClientset(), "work", prometheus.NewRegistry(), zap.NewNop(), func(context.Context) error { return broken })
		require.ErrorIs(t, err, broken)
	})
}

// TestLeadNever has a process stopped while it waits.
func TestLeadNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		ctx, stop := context.WithCancel(t.Context())
		firstCtx, stopFirst := context.WithCancel(t.Context())
		first := join(firstCtx, client)
		require.True(t, first.leads())
		second := join(ctx, client)
		time.Sleep(time.Second)
		stop()
		require.NoError(t, <-second.ended)
		require.False(t, second.leads())
		stopFirst()
		require.NoError(t, <-first.ended)
	})
}
