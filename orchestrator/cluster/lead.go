package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Times of the election: who does not renew its lease for leaseDuration has lost it.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// systemNamespace has the leases.
const systemNamespace = "kube-system"

var errLeaseLost = errors.New("cluster: the lease was lost to another process")

// lead runs something while this process holds the lease of a name. The lease of a process that is gone in order is given
// back, and one that was never held is taken at once. An API server that cannot be reached is tried again.
func lead(ctx context.Context, c kubernetes.Interface, name string, r prometheus.Registerer, lg *zap.Logger, run func(ctx context.Context) error) error {
	leads := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "leader_election_master_status", Help: "1 if this process holds the lease of the name, 0 if it waits for it.", ConstLabels: prometheus.Labels{"name": name},
	})
	if err := r.Register(leads); err != nil {
		return fmt.Errorf("cluster: metrics: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, systemNamespace, name, c.CoreV1(), c.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: host + "_" + uuid.NewString()})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	// The lease is kept until the work has ended, so that the next process does not begin before.
	electing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	led, stopped := make(chan context.Context, 1), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: name, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { led <- ctx },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	go func() {
		defer close(stopped)
		elector.Run(electing)
	}()
	var lease context.Context
	select {
	case lease = <-led:
	case <-ctx.Done():
		cancel()
		<-stopped
		return nil
	}
	lg.Info("leads", zap.String("lease", name))
	leads.Set(1)
	err = work(ctx, lease, run)
	leads.Set(0)
	cancel()
	<-stopped
	return err
}

// work runs something until the context, or that of the lease, ends.
func work(ctx, lease context.Context, run func(ctx context.Context) error) error {
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(lease, cancel)()
	err := run(working)
	if err == nil && lease.Err() != nil {
		return errLeaseLost
	}
	return err
}
