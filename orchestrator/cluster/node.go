package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/node/collect"
	"github.com/keelson-io/keelson/orchestrator/node/eviction"
)

// Node says how the node of this machine is run.
type Node struct {
	// Name is the node's; "": that of the host.
	Name string
	// Dir holds images, volumes and state; "": /var/lib/keelson/node.
	Dir string
	// RuntimeEndpoint is the CRI socket of another runtime, as unix:///run/containerd/containerd.sock; "": the embedded one.
	RuntimeEndpoint string
	// Labels and Taints are those of a new node: key=value, and key=value:effect.
	Labels map[string]string
	Taints []corev1.Taint
	// Address is the node's IP address; "": those of the machine's interfaces. Port is that of its server; 0: 10250.
	Address string
	Port    int
	// ServiceRange is the range of services' addresses, from which that of the DNS server is taken.
	ServiceRange  string
	ClusterDomain string // "": cluster.local
	ResolvConf    string // "": /etc/resolv.conf
	// CgroupDriver is cgroupfs or systemd; CgroupRoot is the cgroup under which pods are.
	CgroupDriver, CgroupRoot string
	Directories
	MaxPods int64
	NodeNetwork
	// Handlers are names of RuntimeClass handlers that the embedded runtime knows.
	Handlers []string
	Pressure Pressure
	Registry *prometheus.Registry // nil: one of its own
	Logger   *zap.Logger
}

// NodeNetwork is how the network of a node is made.
type NodeNetwork struct {
	// Backend is how pods of other nodes are reached: routes or vxlan; NoBackend leaves the network of pods to plugins of others.
	Backend string
	CNI     CNI
	// NodePortAddresses are the addresses of the node that have node ports; none of a family: all, except for loopback ones.
	NodePortAddresses []netip.Prefix
	// NoServiceProxy leaves services to another program. Then nothing is answered for either.
	NoServiceProxy bool
	// LoadBalancerAddresses are ranges of addresses that the node answers for; see controllers.ParseAddressRanges.
	LoadBalancerAddresses []string
}

// NoBackend leaves the network of pods to the plugins that the container runtime is configured with.
const NoBackend = "none"

// CNI is where plugins of the Container Network Interface are. With another container runtime Keelson puts its own there, by which
// that runtime attaches pods to Keelson's network. The embedded runtime calls the plugins that are configured in ConfDir instead of
// using Keelson's network.
type CNI struct {
	// ConfDir holds configurations; "": /etc/cni/net.d with another runtime, and with the embedded one no plugins at all.
	ConfDir string
	// BinDirs hold the plugins; none: /opt/cni/bin.
	BinDirs []string
}

// Directories are those that others look into.
type Directories struct {
	// LogDir is that of pods' logs; "": /var/log/pods.
	LogDir string
	// ManifestDir holds static pods; "": none.
	ManifestDir string
	// DevicePluginDir is where device plugins register; "": device-plugins below the node's directory.
	DevicePluginDir string
}

// Pressure says what a node keeps from its pods, and what it does when it runs out of something. The zero value: nothing.
type Pressure struct {
	Reserved   corev1.ResourceList // that pods do not get
	Eviction   eviction.Settings
	Transition time.Duration // for which a node is under pressure after it was seen; 0: 5 min
	MaxGrace   time.Duration // of pods that are evicted for a soft threshold; 0: none
	Images     collect.Policy
}

// defaults fills in what is not set.
func (n *Node) defaults() error {
	if n.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("cluster: the node needs a name: %w", err)
		}
		n.Name = strings.ToLower(host)
	}
	n.Dir = cmp.Or(n.Dir, "/var/lib/keelson/node")
	n.ClusterDomain, n.ResolvConf = cmp.Or(n.ClusterDomain, "cluster.local"), cmp.Or(n.ResolvConf, "/etc/resolv.conf")
	n.ServiceRange = cmp.Or(n.ServiceRange, defaultServiceRange)
	if n.RuntimeEndpoint != "" {
		n.CNI.ConfDir = cmp.Or(n.CNI.ConfDir, "/etc/cni/net.d")
	}
	if len(n.CNI.BinDirs) == 0 {
		n.CNI.BinDirs = []string{"/opt/cni/bin"}
	}
	if n.Registry == nil {
		n.Registry = newRegistry()
	}
	var err error
	n.Dir, err = filepath.Abs(n.Dir)
	return err
}
