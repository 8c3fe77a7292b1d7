package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/resident"
	"github.com/keelson-io/keelson/orchestrator/controllers"
	"github.com/keelson-io/keelson/orchestrator/hollow"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
)

// Options say what Up runs.
type Options struct {
	API
	Loops
	// Node is the node of this machine; nil: it is none.
	Node *Node
	// HollowNodes is the number of simulated nodes, HollowZones that of the zones that they are in, 0 for none.
	HollowNodes, HollowZones int
	// HollowUnstarted makes simulated nodes leave pods pending, for measurements of the scheduler.
	HollowUnstarted bool
	// Scheduler is the scheduler's configuration; nil: the default.
	Scheduler *config.Configuration
	// Out is told of the stages.
	Out io.Writer
	// Ready is called once everything runs, if it is not nil, with where the API server is and the file that says so.
	Ready func(url, kubeconfig string)
}

// nodeVersion is the kubelet that simulated nodes claim to be.
const nodeVersion = "v1.37.2+keelson"

// Up runs the whole platform in this process until the context ends. With StoreEndpoints the store is an external one.
func Up(ctx context.Context, o Options) (err error) {
	if o.Disruption == (controllers.Disruption{}) {
		o.Disruption = controllers.DefaultDisruption()
	}
	if o.Autoscaler == (controllers.AutoscalerConfig{}) {
		o.Autoscaler = controllers.DefaultAutoscaler()
	}
	if o.Node != nil {
		if err := o.Node.defaults(); err != nil {
			return err
		}
		// Its pods reach the API server by the address of the node.
		o.BindAddress = cmp.Or(o.BindAddress, "0.0.0.0")
		if net.ParseIP(o.BindAddress).IsUnspecified() {
			o.AdvertiseAddress = cmp.Or(o.AdvertiseAddress, o.Node.Address)
		}
	}
	p := newProgress(o.Out)
	defer p.close()
	if len(o.StoreEndpoints) == 0 {
		p.stage("store")
		m, err := startMember(ctx, filepath.Join(o.DataDir, "store"), o.Logger.Named("store"))
		if err != nil {
			return ended(ctx, err)
		}
		defer func() { err = errors.Join(err, m.stop()) }()
		o.StoreEndpoints = []string{m.endpoint}
	}
	p.stage("API server")
	s, err := startAPI(ctx, o.API)
	if err != nil {
		return ended(ctx, err)
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
	g.Go(func() error {
		select {
		case err := <-s.ended:
			s.ended <- nil
			return fmt.Errorf("cluster: the API server: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	started, registered := make(chan struct{}), make(chan struct{})
	g.Go(func() error {
		cfg := Control{CA: s.authorities(), Signer: s.pki, Tokens: s.tokens, Loops: o.Loops, Registerer: s.registry, Logger: o.Logger.Named("controllers")}
		return control(ctx, c, cfg, func() { close(started) })
	})
	g.Go(func() error {
		return schedule(ctx, c, Schedule{Configuration: o.Scheduler, Registerer: s.registry, Logger: o.Logger.Named("scheduler")})
	})
	g.Go(func() error {
		return ended(ctx, o.hollowNodes(ctx, c, func() { close(registered) }))
	})
	if o.Node != nil {
		g.Go(func() error { return ended(ctx, o.node(ctx, s)) })
	}
	p.stage("controllers and scheduler")
	if wait(ctx, started) {
		c.shared.WaitForCacheSync(ctx.Done())
	}
	if o.HollowNodes > 0 {
		p.stage(fmt.Sprintf("hollow nodes: %d", o.HollowNodes))
	}
	ready := wait(ctx, registered)
	if ready && o.Node != nil {
		p.stage("node " + o.Node.Name)
		ready = nodeReady(ctx, c.client, o.Node.Name)
	}
	if ready {
		p.ready(s.url(), s.kubeconfig())
		g.Go(func() error {
			o.trim(ctx)
			return nil
		})
		if o.Ready != nil {
			o.Ready(s.url(), s.kubeconfig())
		}
	}
	return g.Wait()
}

// node runs the node of this machine.
func (o *Options) node(ctx context.Context, s *apiServer) error {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	n := *o.Node
	n.LoadBalancerAddresses = o.LoadBalancerAddresses
	n.ServiceRange, n.Registry, n.Logger = o.Settings.ServiceClusterIPRange, s.registry, o.Logger.Named("node")
	return RunNode(ctx, n, config)
}

// nodeReady waits until a node is ready, and says whether it is.
func nodeReady(ctx context.Context, client kubernetes.Interface, name string) bool {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					return true
				}
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return false
		}
	}
}

// trimAfter is when what only the start needed is given back: the informers have listed, and the garbage is known.
const trimAfter = 3 * time.Second

// trim gives back to the system what only the start needed: about half of what the process holds then.
func (o *Options) trim(ctx context.Context) {
	t := time.NewTimer(trimAfter)
	defer t.Stop()
	select {
	case <-t.C:
		if err := resident.Trim(); err != nil {
			o.Logger.Debug("memory could not be given back", zap.Error(err))
		}
	case <-ctx.Done():
	}
}

// wait tells whether the channel was closed before the context ended.
func wait(ctx context.Context, c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// hollowNodes runs simulated nodes, and calls registered when the API server knows them.
func (o *Options) hollowNodes(ctx context.Context, c *clients, registered func()) error {
	if o.HollowNodes == 0 {
		registered()
		return nil
	}
	n, err := hollow.New(c.client, c.shared, hollow.Config{
		Count: o.HollowNodes, Zones: o.HollowZones, Unstarted: o.HollowUnstarted, Version: nodeVersion, Clock: clock.Real, Logger: o.Logger.Named("hollow"),
	})
	if err != nil {
		return err
	}
	c.shared.StartWithContext(ctx)
	return n.Run(ctx, registered)
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
	if abs, err := filepath.Abs(kubeconfig); err == nil {
		kubeconfig = abs
	}
	_, _ = fmt.Fprintf(p.out, "\n  export KUBECONFIG=%s\n  kubectl get nodes\n\n", kubeconfig)
}

func (p *progress) close() {
	if p.slow != nil {
		p.slow.Stop()
	}
}
