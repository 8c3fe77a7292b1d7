package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/hollow"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
)

// Options say what Up runs.
type Options struct {
	API
	// HollowNodes is the number of simulated nodes.
	HollowNodes int
	// Scheduler is the scheduler's configuration; nil: the default.
	Scheduler *config.Configuration
	// Out is told of the stages.
	Out io.Writer
}

// podRange is the addresses of pods.
const podRange = "10.244.0.0/16"

// Up runs the whole platform in this process until the context ends. With StoreEndpoints the store is an external one.
func Up(ctx context.Context, o Options) (err error) {
	p := newProgress(o.Out)
	defer p.close()
	if len(o.StoreEndpoints) == 0 {
		p.stage("store")
		m, err := startMember(ctx, filepath.Join(o.DataDir, "store"), o.Logger.Named("store"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.stop()) }()
		o.StoreEndpoints = []string{m.endpoint}
	}
	p.stage("API server")
	s, err := startAPI(ctx, o.API)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return o.work(ctx, s, p)
}

// work runs what is a client of the API server.
func (o *Options) work(ctx context.Context, s *apiServer, p *progress) error {
	c, err := newClients(s.config(), "keelson")
	if err != nil {
		return err
	}
	defer c.shared.Shutdown()
	g, ctx := errgroup.WithContext(ctx)
	p.stage("controllers")
	g.Go(func() error {
		return control(ctx, c, Control{CA: s.pki.CA(), Signer: s.pki, PodRange: netip.MustParsePrefix(podRange), Logger: o.Logger.Named("controllers")})
	})
	p.stage("scheduler")
	g.Go(func() error {
		return schedule(ctx, c, Schedule{Configuration: o.Scheduler, Registerer: s.registry, Logger: o.Logger.Named("scheduler")})
	})
	if o.HollowNodes > 0 {
		p.stage(fmt.Sprintf("%d hollow nodes", o.HollowNodes))
		g.Go(func() error { return ended(ctx, hollowNodes(ctx, c, o.HollowNodes, o.Logger.Named("hollow"))) })
	}
	p.ready(s.url(), s.kubeconfig())
	g.Go(func() error {
		select {
		case err := <-s.ended:
			s.ended <- nil
			return fmt.Errorf("cluster: the API server: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

func hollowNodes(ctx context.Context, c *clients, count int, lg *zap.Logger) error {
	n, err := hollow.New(c.client, c.shared, hollow.Config{Count: count, Version: "v1.37.2+keelson", Clock: clock.Real, Logger: lg})
	if err != nil {
		return err
	}
	c.shared.StartWithContext(ctx)
	return n.Run(ctx)
}

// progress tells the stages of a start.
type progress struct {
	out   io.Writer
	begun time.Time
	name  string
	slow  *time.Timer
}

// slowStage is when a stage is said to take long.
const slowStage = 3 * time.Second

func newProgress(out io.Writer) *progress { return &progress{out: out, begun: time.Now()} }

// stage ends the stage before and begins one.
func (p *progress) stage(name string) {
	p.end()
	p.name = name
	p.slow = time.AfterFunc(slowStage, func() { p.print("still waiting for: %s", name) })
}

func (p *progress) end() {
	if p.name == "" {
		return
	}
	p.slow.Stop()
	p.print("%s", p.name)
	p.name = ""
}

func (p *progress) print(format string, a ...any) {
	_, _ = fmt.Fprintf(p.out, "%6.2fs  %s\n", time.Since(p.begun).Seconds(), fmt.Sprintf(format, a...))
}

// ready says how to use what runs.
func (p *progress) ready(url, kubeconfig string) {
	p.end()
	p.print("ready: %s", url)
	_, _ = fmt.Fprintf(p.out, "\n  export KUBECONFIG=%s\n  kubectl get nodes\n\n", kubeconfig)
}

func (p *progress) close() {
	if p.slow != nil {
		p.slow.Stop()
	}
}
