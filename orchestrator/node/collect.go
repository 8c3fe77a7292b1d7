package node

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/node/collect"
	"github.com/keelson-io/keelson/orchestrator/node/eviction"
)

// collector makes what removes images that nobody uses.
func (p *pods) collector() (err error) {
	p.collect, err = collect.New(collect.Config{
		Images: p.images, Containers: p.runtime, Pods: p.workers.Active, Dead: p.workers.RemoveDead, Policy: p.cfg.Eviction.Images,
		Space: func(ctx context.Context) (available, capacity int64, ok bool) {
			fs := p.usage.Left(ctx).ImageFs
			if fs == nil {
				return 0, 0, false
			}
			return fs.Available, fs.Capacity, true
		},
		Warn: func(reason, message string) {
			p.events.Event(p.register.Node(), corev1.EventTypeWarning, reason, message)
		},
		Clock: p.cfg.Clock, Logger: p.cfg.Logger.Named("images"),
	})
	return err
}

// reclaim removes what no pod needs until a signal is above its thresholds.
func (p *pods) reclaim(ctx context.Context, s eviction.Signal) error {
	return p.collect.Reclaim(ctx, func() bool {
		seen, err := p.signals(ctx)
		return err == nil && !eviction.Low(p.cfg.Eviction.Thresholds, s, seen[s])
	})
}
