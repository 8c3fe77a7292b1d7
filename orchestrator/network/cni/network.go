package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// podInterface is the interface of a pod.
const podInterface = "eth0"

// Config says where plugins are and where their state is.
type Config struct {
	ConfDir  string   // of *.conflist, *.conf and *.json
	BinDirs  []string // of plugins
	CacheDir string   // of this network alone
	Logger   *zap.Logger
}

// Network attaches sandboxes by CNI plugins.
type Network struct {
	Config
	cni *libcni.CNIConfig
}

// New makes a network. The configuration may come later; see Ready.
func New(c Config) (*Network, error) {
	if c.ConfDir == "" || len(c.BinDirs) == 0 || c.CacheDir == "" {
		return nil, errors.New("cni: directories of configurations, of plugins and of the cache are needed")
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if err := os.MkdirAll(c.CacheDir, 0o700); err != nil {
		return nil, fmt.Errorf("cni: %w", err)
	}
	return &Network{Config: c, cni: libcni.NewCNIConfigWithCacheDir(c.BinDirs, c.CacheDir, nil)}, nil
}

// load reads the first configuration that is valid.
func (n *Network) load() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(n.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("cni: %w", err)
	}
	slices.Sort(files)
	var bad []error
	for _, f := range files {
		list, err := loadFile(f)
		if err == nil && len(list.Plugins) == 0 {
			err = errors.New("it has no plugins")
		}
		if err == nil {
			return list, nil
		}
		bad = append(bad, fmt.Errorf("%s: %w", f, err))
	}
	return nil, errors.Join(append([]error{fmt.Errorf("cni: no valid configuration in %s", n.ConfDir)}, bad...)...)
}

func loadFile(path string) (*libcni.NetworkConfigList, error) {
	if strings.HasSuffix(path, ".conflist") {
		return libcni.NetworkConfFromFile(path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	one, err := libcni.NetworkPluginConfFromBytes(b)
	if err != nil {
		return nil, err
	}
	if one.Network.Type == "" {
		return nil, errors.New("it has no type")
	}
	return libcni.ConfListFromConf(one)
}

// Ready says why pods cannot be attached, or nil: there is a configuration, and its plugins are content.
func (n *Network) Ready() error {
	list, err := n.load()
	if err != nil {
		return err
	}
	if err := n.cni.GetStatusNetworkList(context.Background(), list); err != nil {
		return fmt.Errorf("cni: network %s: %w", list.Name, err)
	}
	return nil
}

// Attach puts a sandbox on the network and returns its addresses, in the order of the plugins' result. A sandbox that is
// attached keeps what it has, as far as the plugins find it in order.
func (n *Network) Attach(ctx context.Context, id, netns string, c *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	if netns == "" {
		return nil, fmt.Errorf("cni: sandbox %s has no network namespace of its own", id)
	}
	list, err := n.load()
	if err != nil {
		return nil, err
	}
	rt, err := runtimeConf(id, netns, c)
	if err != nil {
		return nil, err
	}
	if got := n.attached(ctx, list, rt); len(got) > 0 {
		return got, nil
	}
	if _, err := n.detachKnown(ctx, id); err != nil { // as it was attached before
		return nil, err
	}
	if err := loopback(netns); err != nil {
		return nil, err
	}
	result, err := n.cni.AddNetworkList(ctx, list, rt)
	if err == nil {
		var got []netip.Addr
		if got, err = addresses(result); err == nil {
			return got, nil
		}
	}
	if undo := n.cni.DelNetworkList(context.WithoutCancel(ctx), list, rt); undo != nil {
		n.Logger.Warn("what is left of a sandbox that could not be attached", zap.String("sandbox", id), zap.Error(undo))
	}
	return nil, fmt.Errorf("cni: attach the sandbox %s to network %s: %w", id, list.Name, err)
}

// attached are the addresses of a sandbox that is attached to a network and is found in order.
func (n *Network) attached(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) []netip.Addr {
	have, err := n.cni.GetCachedAttachments(rt.ContainerID)
	if err != nil || !slices.ContainsFunc(have, func(a *libcni.NetworkAttachment) bool { return a.Network == list.Name && a.NetNS == rt.NetNS }) {
		return nil
	}
	result, err := n.cni.GetNetworkListCachedResult(list, rt)
	if err != nil || result == nil {
		return nil
	}
	if err := n.cni.CheckNetworkList(ctx, list, rt); err != nil && !errors.Is(err, libcni.ErrorCheckNotSupp) {
		n.Logger.Warn("a sandbox is not attached as it was, and is attached anew", zap.String("sandbox", rt.ContainerID), zap.Error(err))
		return nil
	}
	got, err := addresses(result)
	if err != nil {
		return nil
	}
	return got
}

// Detach takes a sandbox off the networks that it was attached to, by the configurations that it was attached by. One of which
// nothing is known may have been on its way when the agent was killed: the plugins of today are told that it is gone.
func (n *Network) Detach(ctx context.Context, id, netns string, c *runtimeapi.PodSandboxConfig) error {
	known, err := n.detachKnown(ctx, id)
	if known || err != nil {
		return err
	}
	list, err := n.load()
	if err != nil {
		return nil //nolint:nilerr // there is nobody to tell
	}
	rt, err := runtimeConf(id, alive(netns), c)
	if err != nil {
		return nil //nolint:nilerr // it was never attached for the same reason
	}
	if err := n.cni.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("cni: detach the sandbox %s from network %s: %w", id, list.Name, err)
	}
	return nil
}

// detachKnown detaches what was attached, and says whether anything was.
func (n *Network) detachKnown(ctx context.Context, id string) (bool, error) {
	all, err := n.cni.GetCachedAttachments(id)
	if err != nil {
		return false, fmt.Errorf("cni: %w", err)
	}
	var errs []error
	for _, a := range all {
		errs = append(errs, n.detach(ctx, a))
	}
	return len(all) > 0, errors.Join(errs...)
}

// alive is a path of a namespace, or "" when that has ended: plugins then free what is outside of it.
func alive(path string) string {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return ""
	}
	_ = ns.Close()
	return path
}

func (n *Network) detach(ctx context.Context, a *libcni.NetworkAttachment) error {
	list, err := libcni.NetworkConfFromBytes(a.Config)
	if err != nil {
		return fmt.Errorf("cni: configuration that sandbox %s was attached by: %w", a.ContainerID, err)
	}
	rt := &libcni.RuntimeConf{ContainerID: a.ContainerID, NetNS: alive(a.NetNS), IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs}
	if err := n.cni.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("cni: detach the sandbox %s from network %s: %w", a.ContainerID, a.Network, err)
	}
	return nil
}

// GC detaches all sandboxes but those with the given ids, and has the plugins remove what they have of others, where
// they support that.
func (n *Network) GC(ctx context.Context, keep []string) error {
	all, err := n.cni.GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("cni: %w", err)
	}
	var errs []error
	valid := []types.GCAttachment{}
	for _, a := range all {
		if slices.Contains(keep, a.ContainerID) {
			valid = append(valid, types.GCAttachment{ContainerID: a.ContainerID, IfName: a.IfName})
		} else {
			errs = append(errs, n.detach(ctx, a))
		}
	}
	if list, err := n.load(); err == nil {
		if err := n.cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
			errs = append(errs, fmt.Errorf("cni: collect garbage of network %s: %w", list.Name, err))
		}
	}
	return errors.Join(errs...)
}

// runtimeConf is what plugins are told of a sandbox.
func runtimeConf(id, netns string, c *runtimeapi.PodSandboxConfig) (*libcni.RuntimeConf, error) {
	m := c.GetMetadata()
	rt := &libcni.RuntimeConf{
		ContainerID: id, NetNS: netns, IfName: podInterface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", m.GetNamespace()}, {"K8S_POD_NAME", m.GetName()},
			{"K8S_POD_INFRA_CONTAINER_ID", id}, {"K8S_POD_UID", m.GetUid()},
		},
		CapabilityArgs: map[string]any{"io.kubernetes.cri.pod-annotations": c.GetAnnotations()},
	}
	var ports []portMapping
	for _, p := range c.GetPortMappings() {
		if p.HostPort > 0 {
			ports = append(ports, portMapping{p.HostPort, p.ContainerPort, strings.ToLower(p.Protocol.String()), p.HostIp})
		}
	}
	if len(ports) > 0 {
		rt.CapabilityArgs["portMappings"] = ports
	}
	b, err := limits(c.GetAnnotations())
	if err != nil {
		return nil, err
	}
	if b != (bandwidth{}) {
		rt.CapabilityArgs["bandwidth"] = b
	}
	if d := c.GetDnsConfig(); d != nil {
		rt.CapabilityArgs["dns"] = map[string][]string{"servers": d.Servers, "searches": d.Searches, "options": d.Options}
	}
	return rt, nil
}

// portMapping and bandwidth are capabilities as the conventions of CNI have them.
type portMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"` // bits per second
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
	anyBurst          = 1<<31 - 1 // bits: as much as plugins take
)

// limits reads the annotations that limit a pod.
func limits(annotations map[string]string) (b bandwidth, err error) {
	for name, to := range map[string]*uint64{ingressAnnotation: &b.IngressRate, egressAnnotation: &b.EgressRate} {
		s, ok := annotations[name]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(s)
		if err != nil || q.Value() <= 0 {
			return b, fmt.Errorf("cni: annotation %s=%q is not a number of bits per second", name, s)
		}
		*to = uint64(q.Value())
	}
	if b.IngressRate > 0 {
		b.IngressBurst = anyBurst
	}
	if b.EgressRate > 0 {
		b.EgressBurst = anyBurst
	}
	return b, nil
}

// addresses are those of the pod's interface.
func addresses(r types.Result) ([]netip.Addr, error) {
	result, err := types100.GetResult(r)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, ip := range result.IPs {
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(result.Interfaces) || result.Interfaces[*i].Name != podInterface) {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the plugins gave it no address")
	}
	return out, nil
}

// loopback switches on the loopback of a namespace.
func loopback(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("cni: network namespace %s: %w", path, err)
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cni: network namespace %s: %w", path, err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("cni: loopback of %s: %w", path, err)
	}
	return nil
}
