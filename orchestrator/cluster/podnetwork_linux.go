package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/network/cni"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

// checkNetwork says what in the network of a node does not go together.
func (n *Node) checkNetwork() error {
	switch {
	case n.Backend == NoBackend && n.embedded() && n.CNI.ConfDir == "":
		return fmt.Errorf("cluster: --pod-network %s leaves the network of pods to CNI plugins, whose configuration --cni-conf-dir has to name", NoBackend)
	case n.foreign() && len(n.LoadBalancerAddresses) > 0 && !n.NoServiceProxy:
		return errors.New("cluster: a node answers for addresses of load balancers only with Keelson's own network of pods")
	}
	return nil
}

func (n *Node) embedded() bool { return n.RuntimeEndpoint == "" }

// foreign says whether plugins of others make the network of pods.
func (n *Node) foreign() bool {
	return n.Backend == NoBackend || n.embedded() && n.CNI.ConfDir != ""
}

// pluginSocket is where the agent answers Keelson's CNI plugin.
func (n *Node) pluginSocket() string { return filepath.Join(n.StateDir(), "cni.sock") }

// plugins calls the plugins of others.
func (n *Node) plugins() (*cni.Network, error) {
	return cni.New(cni.Config{ConfDir: n.CNI.ConfDir, BinDirs: n.CNI.BinDirs, CacheDir: filepath.Join(n.Dir, "cni"), Logger: n.Logger.Named("cni")})
}

// openNetwork makes the network of pods, with what guards it. With plugins of others both are theirs.
func (p *nodeParts) openNetwork() (err error) {
	if p.foreign() {
		return nil
	}
	if err := p.openPolicies(); err != nil {
		return err
	}
	p.network, err = podnet.New(podnet.Config{
		Nodes: p.shared.Core().V1().Nodes(), Node: p.Name, Dir: filepath.Join(p.Dir, "network"), Backend: podnet.Backend(cmp.Or(p.Backend, string(podnet.Routes))),
		Guard: p.policies, Clock: clock.Real, Logger: p.Logger.Named("network"),
	})
	if err != nil {
		return errors.Join(err, p.policies.Close())
	}
	return nil
}

// closeNetwork lets go of it; pods keep it.
func (p *nodeParts) closeNetwork() error {
	if p.network == nil {
		return nil
	}
	p.network.Close()
	return p.policies.Close()
}

// runNetwork runs the network until the context ends.
func (p *nodeParts) runNetwork(ctx context.Context) error {
	if p.network == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	p.everywhere.StartWithContext(ctx)
	defer p.everywhere.Shutdown() // once Wait has ended the context
	g.Go(func() error { return p.network.Run(ctx) })
	g.Go(func() error { return p.policies.Run(ctx) })
	if !p.embedded() {
		g.Go(func() error { return p.servePlugin(ctx) })
	}
	return g.Wait()
}

// servePlugin lets a runtime that is not ours attach pods to our network, by our CNI plugin. The runtime hears of the plugin when the
// network is ready, since it takes itself to be ready from then on.
func (p *nodeParts) servePlugin(ctx context.Context) error {
	if err := p.forgetSandboxes(ctx); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cni.NewServer(p.network, p.Logger.Named("cni")).Serve(ctx, p.pluginSocket()) })
	g.Go(func() error {
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for p.network.Ready() != nil {
			select {
			case <-t.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		p.Logger.Info("the container runtime uses the pod network", zap.String("configurations", p.CNI.ConfDir), zap.String("plugins", p.CNI.BinDirs[0]))
		return cni.Install(p.CNI.ConfDir, p.CNI.BinDirs[0], program, p.pluginSocket())
	})
	return g.Wait()
}

// forgetSandboxes detaches those that the runtime has removed while nobody answered the plugin.
func (p *nodeParts) forgetSandboxes(ctx context.Context) error {
	conn, err := grpc.NewClient(p.RuntimeEndpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	defer func() { _ = conn.Close() }()
	all, err := runtimeapi.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("cluster: sandboxes of the container runtime: %w", err)
	}
	var keep []string
	for _, s := range all.Items {
		keep = append(keep, s.Id)
	}
	return p.network.GC(ctx, keep)
}
