//go:build linux

package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	miekg "github.com/miekg/dns"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/controllers"
	"github.com/keelson-io/keelson/orchestrator/network/announce"
	"github.com/keelson-io/keelson/orchestrator/network/dns"
	"github.com/keelson-io/keelson/orchestrator/network/local"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
	"github.com/keelson-io/keelson/orchestrator/network/policy"
	"github.com/keelson-io/keelson/orchestrator/network/proxy"
	"github.com/keelson-io/keelson/orchestrator/node"
	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
	"github.com/keelson-io/keelson/orchestrator/node/eviction"
	"github.com/keelson-io/keelson/orchestrator/node/images"
	"github.com/keelson-io/keelson/orchestrator/node/registration"
	"github.com/keelson-io/keelson/orchestrator/node/runtime"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
	"github.com/keelson-io/keelson/orchestrator/node/shim/program"
	"github.com/keelson-io/keelson/orchestrator/node/workers"
)

// StateDir is where the embedded runtime keeps what does not outlive a reboot: a short path, since sockets lie in it. Dir has to
// be absolute.
func (n *Node) StateDir() string {
	sum := sha256.Sum256([]byte(n.Dir))
	return filepath.Join("/run/keelson", hex.EncodeToString(sum[:4]))
}

// dnsOffset is which address of the services' range is the DNS server's.
const dnsOffset = 10

// dnsServers are the addresses of the DNS server, one for each range of services.
func dnsServers(ranges string) (out []netip.Addr, err error) {
	for text := range strings.SplitSeq(ranges, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("cluster: range of services %q: %w", text, err)
		}
		a := p.Masked().Addr()
		for range dnsOffset {
			a = a.Next()
		}
		out = append(out, a)
	}
	return out, nil
}

// nodeParts are the parts of a running node.
type nodeParts struct {
	Node
	credentials *registration.Credentials
	client      kubernetes.Interface
	shared      informers.SharedInformerFactory
	network     *podnet.Network // nil: plugins of others make it
	policies    *policy.Enforcer
	everywhere  informers.SharedInformerFactory // of the pods of all nodes, in short
	runtime     *runtime.Runtime                // nil: another one is used
	images      *images.Store
	mine        informers.SharedInformerFactory // of the pods of the node
	dns         []netip.Addr
}

// CheckNode says why this process cannot run the node of its machine; nil if it can.
func CheckNode(n *Node) error {
	if os.Getuid() != 0 {
		return errors.New("cluster: a node makes containers and networks, and needs root")
	}
	if err := n.checkNetwork(); err != nil {
		return err
	}
	if !n.embedded() {
		return nil
	}
	if err := shim.Available(); err != nil {
		return fmt.Errorf("cluster: no container runtime: %w; name another one with --container-runtime-endpoint", err)
	}
	return nil
}

// RunNode runs the node of this machine until the context ends; pods run on. bootstrap reaches the API server as somebody who
// may ask for the certificates of nodes.
func RunNode(ctx context.Context, n Node, bootstrap *rest.Config) (err error) {
	if err := n.defaults(); err != nil {
		return err
	}
	if err := CheckNode(&n); err != nil {
		return err
	}
	if n.Registry == nil { // a nil pointer in an interface is something
		n.Registry = newRegistry()
	}
	lock, err := lockNode(n.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // nothing is written to it
	if err := n.saveState(); err != nil {
		return err
	}
	p := &nodeParts{Node: n}
	if p.dns, err = dnsServers(n.ServiceRange); err != nil {
		return err
	}
	p.credentials, err = registration.Join(ctx, registration.JoinConfig{Dir: filepath.Join(n.Dir, "pki"), Name: n.Name, Bootstrap: bootstrap, Logger: n.Logger.Named("certificates")})
	if err != nil {
		return ended(ctx, err)
	}
	defer p.credentials.Close()
	c, err := newClients(p.credentials.Config(), "keelson-node")
	if err != nil {
		return err
	}
	p.client, p.shared = c.client, c.shared
	defer p.shared.Shutdown()
	inner, cancel := context.WithCancel(ctx)
	defer cancel() // before the informers are waited for
	authorities, err := poolOf(bootstrap)
	if err != nil {
		return err
	}
	return ended(ctx, p.run(inner, authorities))
}

// poolOf are the authorities of the cluster.
func poolOf(c *rest.Config) (*x509.CertPool, error) {
	if err := rest.LoadTLSFiles(c); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.CAData) {
		return nil, errors.New("cluster: the kubeconfig has no authority of the cluster")
	}
	return pool, nil
}

// run makes the parts and runs them.
func (p *nodeParts) run(ctx context.Context, authorities *x509.CertPool) (err error) {
	if err := p.openNetwork(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.closeNetwork()) }()
	endpoint := p.RuntimeEndpoint
	if endpoint == "" {
		if endpoint, err = p.openRuntime(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.runtime.Close(), p.images.Close()) }()
	}
	agent, err := p.agent(endpoint, authorities)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	names, err := p.names()
	if err != nil {
		return err
	}
	services := p.services()
	announce, err := p.announcer()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	p.shared.StartWithContext(ctx)
	defer p.mine.Shutdown()
	defer cancel() // before the informers are waited for
	p.mine.StartWithContext(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ended(ctx, p.runNetwork(ctx)) })
	g.Go(func() error { return ended(ctx, services(ctx)) })
	g.Go(func() error { return ended(ctx, announce(ctx)) })
	g.Go(func() error { return local.Keep(ctx, p.dns, prefixes(p.ServiceRange), p.Logger.Named("network")) })
	g.Go(func() error { return ended(ctx, names.Run(ctx)) })
	if p.runtime != nil {
		g.Go(func() error { return ended(ctx, p.runtime.Serve(ctx)) })
	}
	g.Go(func() error { return ended(ctx, agent.Run(ctx)) })
	return g.Wait()
}

// services makes the service proxy of the node.
func (p *nodeParts) services() (run func(context.Context) error) {
	if p.NoServiceProxy {
		return func(context.Context) error { return nil }
	}
	cfg := proxy.Config{ // names the informers before they are started
		Services: p.shared.Core().V1().Services().Informer(), Slices: p.shared.Discovery().V1().EndpointSlices().Informer(), Nodes: p.shared.Core().V1().Nodes().Informer(),
		Node: p.Name, ServiceRanges: prefixes(p.ServiceRange), NodePortAddresses: p.NodePortAddresses,
		Registerer: p.Registry, Clock: clock.Real, Logger: p.Logger.Named("services"),
	}
	return func(ctx context.Context) error {
		x, err := proxy.New(cfg)
		if err != nil {
			return err
		}
		defer x.Close()
		return x.Run(ctx)
	}
}

// announcer makes what answers for addresses of load balancers.
func (p *nodeParts) announcer() (run func(context.Context) error, err error) {
	if len(p.LoadBalancerAddresses) == 0 || p.NoServiceProxy {
		return func(ctx context.Context) error {
			if err := announce.Withdraw(ctx, p.client, p.Name); err != nil && ctx.Err() == nil {
				p.Logger.Warn("other nodes may think that this one answers for addresses of load balancers", zap.Error(err))
			}
			return nil
		}, nil
	}
	pool, err := controllers.ParseAddressRanges(p.LoadBalancerAddresses)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	cfg := announce.Config{
		Client: p.client, Services: p.shared.Core().V1().Services().Informer(), Slices: p.shared.Discovery().V1().EndpointSlices().Informer(),
		Nodes: p.shared.Core().V1().Nodes().Informer(), Node: p.Name, Sink: podnet.DefaultBridge, Clock: clock.Real, Logger: p.Logger.Named("announce"),
		Pool: func(a netip.Addr) bool {
			return slices.ContainsFunc(pool, func(r controllers.AddressRange) bool { return r.Contains(a) })
		},
	}
	return func(ctx context.Context) error {
		a, err := announce.New(cfg)
		if err != nil {
			return err
		}
		defer a.Close()
		return a.Run(ctx)
	}, nil
}

// prefixes are the ranges in a list with commas.
func prefixes(ranges string) (out []netip.Prefix) {
	for text := range strings.SplitSeq(ranges, ",") {
		if r, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			out = append(out, r)
		}
	}
	return out
}

// openPolicies makes what enforces network policies.
func (p *nodeParts) openPolicies() (err error) {
	p.everywhere = informers.NewSharedInformerFactoryWithOptions(p.client, 0, informers.WithTransform(policy.Trim), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fmt.Sprintf("status.phase!=%s,status.phase!=%s", corev1.PodSucceeded, corev1.PodFailed)
	}))
	cfg := policy.Config{
		Pods: p.everywhere.Core().V1().Pods().Informer(), Namespaces: p.shared.Core().V1().Namespaces().Informer(),
		Policies: p.shared.Networking().V1().NetworkPolicies().Informer(), DNS: p.dns, Clock: clock.Real, Logger: p.Logger.Named("policies"),
	}
	if p.Registry != nil {
		cfg.Registerer = p.Registry
	}
	p.policies, err = policy.New(cfg)
	return err
}

// names makes the DNS server of the node.
func (p *nodeParts) names() (*dns.Server, error) {
	p.mine = informers.NewSharedInformerFactoryWithOptions(p.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", p.Name).String()
	}))
	resolver, err := resolverOf(p.ResolvConf)
	if err != nil {
		return nil, err
	}
	cfg := dns.Config{
		Services: p.shared.Core().V1().Services().Informer(), Slices: p.shared.Discovery().V1().EndpointSlices().Informer(), Pods: p.mine.Core().V1().Pods().Informer(),
		Domain: p.ClusterDomain, Upstreams: resolver.servers, Search: resolver.search, Registerer: p.Registry, Clock: clock.Real, Logger: p.Logger.Named("dns"),
	}
	for _, a := range p.dns {
		cfg.Listen = append(cfg.Listen, netip.AddrPortFrom(a, dnsPort))
	}
	cfg.Reversed = prefixes(p.ServiceRange)
	return dns.New(cfg)
}

const dnsPort = 53

// resolver is who resolves names that are not the cluster's.
type resolver struct {
	servers []netip.AddrPort
	search  []string
}

// resolverOf reads a resolv.conf.
func resolverOf(file string) (r resolver, err error) {
	c, err := miekg.ClientConfigFromFile(file)
	if err != nil {
		return r, fmt.Errorf("cluster: the node's resolver: %w", err)
	}
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			r.servers = append(r.servers, netip.AddrPortFrom(a, dnsPort))
		}
	}
	return resolver{r.servers, c.Search}, nil
}

// openRuntime opens the embedded runtime and returns its socket.
func (p *nodeParts) openRuntime() (endpoint string, err error) {
	if p.images, err = images.Open(filepath.Join(p.Dir, "images"), images.Config{Logger: p.Logger.Named("images")}); err != nil {
		return "", err
	}
	command, err := program.Install(filepath.Join(p.Dir, "bin"))
	if err != nil {
		return "", errors.Join(err, p.images.Close())
	}
	state := p.StateDir()
	socket := filepath.Join(state, "cri.sock")
	cfg := runtime.Config{
		Root: filepath.Join(p.Dir, "runtime"), State: state, Socket: socket, Images: runtime.FromStore(p.images), ImageService: images.NewService(p.images),
		CgroupDriver: p.CgroupDriver, CgroupParent: filepath.Join("/", p.CgroupRoot, "keelson"), ShimCommand: command, Handlers: p.Handlers, Logger: p.Logger.Named("runtime"),
	}
	switch {
	case p.foreign():
		cfg.Network, err = p.plugins()
	case p.network != nil: // a nil pointer in an interface is something
		cfg.Network = p.network
	}
	if err == nil {
		p.runtime, err = runtime.Open(cfg)
	}
	if err != nil {
		return "", errors.Join(err, p.images.Close())
	}
	return "unix://" + socket, nil
}

// agent makes the node's agent.
func (p *nodeParts) agent(endpoint string, authorities *x509.CertPool) (*node.Agent, error) {
	port := cmp.Or(p.Port, 10250)
	cfg := node.Config{
		Name: p.Name, Credentials: p.credentials, Authorities: authorities, RuntimeEndpoint: endpoint, Dir: p.Dir, Logs: p.LogDir,
		DevicePlugins: p.DevicePluginDir,
		Spec:          registration.Spec{Labels: p.Labels, Taints: p.Taints}, Address: fmt.Sprintf("%s:%d", bracketed(p.Address), port),
		DNS:     node.DNS{Servers: p.dns, Domain: p.ClusterDomain, ResolvConf: p.ResolvConf},
		Cgroups: cgroup.Config{Driver: cgroup.Driver(p.CgroupDriver), Root: p.CgroupRoot}, MaxPods: p.MaxPods, Reserved: p.Pressure.Reserved,
		Pods:    workers.Options{ClusterDomain: p.ClusterDomain, StaticDir: p.ManifestDir, SeccompDir: filepath.Join(p.Dir, "seccomp")},
		Version: nodeVersion, Registry: p.Registry, Logger: p.Logger,
	}
	var err error
	cfg.Eviction = node.Eviction{Transition: p.Pressure.Transition, MaxGrace: p.Pressure.MaxGrace, Images: p.Pressure.Images}
	if cfg.Eviction.Thresholds, err = eviction.Thresholds(p.Pressure.Eviction); err != nil {
		return nil, err
	}
	if p.Address != "" {
		a, err := netip.ParseAddr(p.Address)
		if err != nil {
			return nil, fmt.Errorf("cluster: the node's address: %w", err)
		}
		cfg.Addresses = func() []netip.Addr { return []netip.Addr{a} }
	}
	return node.New(cfg)
}

// bracketed writes an address as it stands before a port.
func bracketed(address string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}
