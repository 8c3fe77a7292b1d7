package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
	"github.com/keelson-io/keelson/orchestrator/controllers"
	"github.com/keelson-io/keelson/orchestrator/hollow"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
)

// Worker says how a client of the API server is run as a process of its own.
type Worker struct {
	// Kubeconfig is how to reach the API server. A file that is not there yet is waited for.
	Kubeconfig string
	// LeaderElect makes it work only while it holds a lease.
	LeaderElect bool
	// MetricsAddress is where metrics and health are served over HTTP, as host:port; "": nowhere.
	MetricsAddress string
	Logger         *zap.Logger
}

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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var result error
	done, began := make(chan struct{}), false
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: name, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				began = true
				defer close(done)
				lg.Info("leads", zap.String("lease", name))
				leads.Set(1)
				result = run(ctx)
				cancel()
			},
			OnStoppedLeading: func() { leads.Set(0) },
		},
	})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	outer := ctx
	elector.Run(ctx)
	if began {
		<-done
	}
	if result == nil && outer.Err() == nil {
		return errLeaseLost
	}
	return result
}

// config waits for the kubeconfig, and reads it.
func (w *Worker) config(ctx context.Context) (*rest.Config, error) {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for told := false; ; {
		_, err := os.Stat(w.Kubeconfig)
		if err == nil {
			break
		}
		if !told {
			w.Logger.Warn("waiting for the kubeconfig", zap.String("file", w.Kubeconfig), zap.Error(err))
			told = true
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c, err := clientcmd.BuildConfigFromFlags("", w.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := rest.LoadTLSFiles(c); err != nil {
		return nil, fmt.Errorf("cluster: the kubeconfig %s: %w", w.Kubeconfig, err)
	}
	c.QPS = -1
	c.ContentType, c.AcceptContentTypes = protobuf, protobuf+",application/json"
	return c, nil
}

const protobuf = "application/vnd.kubernetes.protobuf"

// run runs a role: behind a lease, if so wanted.
func (w *Worker) run(ctx context.Context, name string, role func(ctx context.Context, c *clients, r *prometheus.Registry) error) error {
	registry := newRegistry()
	if w.MetricsAddress != "" {
		stop, err := monitor(w.MetricsAddress, registry, w.Logger)
		if err != nil {
			return err
		}
		defer stop()
	}
	config, err := w.config(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	c, err := newClients(config, name)
	if err != nil {
		return err
	}
	defer c.shared.Shutdown()
	if !w.LeaderElect {
		return role(ctx, c, registry)
	}
	return lead(ctx, c.client, name, registry, w.Logger, func(ctx context.Context) error { return role(ctx, c, registry) })
}

// RunControllers runs the controllers until the context ends. With a directory of an authority they sign certificates.
func RunControllers(ctx context.Context, w Worker, pkiDir string, d controllers.Disruption) error {
	return w.run(ctx, "keelson-controllers", func(ctx context.Context, c *clients, r *prometheus.Registry) error {
		cfg := Control{CA: c.config.CAData, PodRange: netip.MustParsePrefix(podRange), Disruption: d, Registerer: r, Logger: w.Logger.Named("controllers")}
		if _, err := os.Stat(pkiDir); err == nil {
			s, err := pki.Open(pkiDir, time.Now)
			if err != nil {
				return err
			}
			keys, err := keyring(s)
			if err != nil {
				return err
			}
			cfg.Signer, cfg.Tokens = s, &identity.Issuer{Keys: keys}
		}
		return control(ctx, c, cfg, func() {})
	})
}

// RunScheduler runs the scheduler until the context ends.
func RunScheduler(ctx context.Context, w Worker, conf *config.Configuration) error {
	return w.run(ctx, "keelson-scheduler", func(ctx context.Context, c *clients, r *prometheus.Registry) error {
		return schedule(ctx, c, Schedule{Configuration: conf, Registerer: r, Logger: w.Logger.Named("scheduler")})
	})
}

// RunHollow runs simulated nodes until the context ends. The prefix begins their names.
func RunHollow(ctx context.Context, w Worker, count int, prefix string) error {
	w.LeaderElect = false
	return w.run(ctx, "keelson-hollow", func(ctx context.Context, c *clients, _ *prometheus.Registry) error {
		n, err := hollow.New(c.client, c.shared, hollow.Config{
			Count: count, Prefix: prefix, Version: "v1.37.2+keelson", Clock: clock.Real, Logger: w.Logger.Named("hollow"),
		})
		if err != nil {
			return err
		}
		c.shared.StartWithContext(ctx)
		return ended(ctx, n.Run(ctx, func() {}))
	})
}
