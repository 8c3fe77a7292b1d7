package cluster

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
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
func RunControllers(ctx context.Context, w Worker, pkiDir string, l Loops) error {
	return w.run(ctx, "keelson-controllers", func(ctx context.Context, c *clients, r *prometheus.Registry) error {
		cfg := Control{CA: c.config.CAData, Loops: l, Registerer: r, Logger: w.Logger.Named("controllers")}
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
			Count: count, Prefix: prefix, Version: nodeVersion, Clock: clock.Real, Logger: w.Logger.Named("hollow"),
		})
		if err != nil {
			return err
		}
		c.shared.StartWithContext(ctx)
		return ended(ctx, n.Run(ctx, func() {}))
	})
}
