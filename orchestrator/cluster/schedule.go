package cluster

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/scheduler"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
)

// Schedule says how the scheduler is run.
type Schedule struct {
	// Configuration is that of config.Default if nil.
	Configuration *config.Configuration
	Registerer    prometheus.Registerer // nil: none
	Logger        *zap.Logger
}

// schedule runs the scheduler until the context ends.
func schedule(ctx context.Context, c *clients, cfg Schedule) error {
	conf := cfg.Configuration
	if conf == nil {
		conf = config.Default()
	}
	s, err := scheduler.New(scheduler.Config{
		Client: c.client, Informers: c.shared, Configuration: conf, Plugin: scheduler.Builtin(c.client, conf),
		Clock: clock.Real, Logger: cfg.Logger, Registerer: cfg.Registerer,
	})
	if err != nil {
		return err
	}
	return ended(ctx, s.Run(ctx))
}
