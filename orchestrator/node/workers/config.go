package workers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/node/probe"
)

// Volumes provides what pods mount.
type Volumes interface {
	// Setup makes all volumes of the pod ready, and those that follow the API up to date. It is called again and again.
	Setup(ctx context.Context, pod *corev1.Pod) error
	// Mounts are a container's mounts of volumes; env is for paths with variables in them.
	Mounts(pod *corev1.Pod, c *corev1.Container, env map[string]string) ([]*runtimeapi.Mount, error)
	// Devices are the volumes that a container sees as block devices.
	Devices(pod *corev1.Pod, c *corev1.Container) ([]*runtimeapi.Device, error)
	// Teardown removes the volumes of a pod; of one that has none it is no error.
	Teardown(ctx context.Context, uid types.UID) error
	// Remove is Teardown, and removes the pod's directory with all that is in it.
	Remove(ctx context.Context, uid types.UID) error
	// CleanOrphans removes what pods left that are not known, and what is mounted for no pod.
	CleanOrphans(ctx context.Context, known func(types.UID) bool) error
}

// Environ provides what containers find in their environment.
type Environ interface {
	// Env is the environment of a container, with all sources resolved and variables expanded.
	Env(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ips []string) ([]corev1.EnvVar, error)
	DNS(pod *corev1.Pod) (*runtimeapi.DNSConfig, error)
	// Hosts writes the hosts file of a pod and returns its path, "" if the pod has none.
	Hosts(pod *corev1.Pod, ips []string) (string, error)
}

// Prober probes running containers. Container IDs are without the name of the runtime.
type Prober interface {
	Start(pod *corev1.Pod, c *corev1.Container, containerID, podIP string, started time.Time)
	// Terminating says that a pod ends: only its readiness still matters.
	Terminating(uid types.UID)
	// Stop ends the probes of a container, or of all of the pod if it is "".
	Stop(uid types.UID, container string)
	Result(containerID string) (started, ready bool)
	// Changes are new results. Of startup and liveness, one that is not ok has the container restarted.
	Changes() <-chan probe.Change
}

// Cgroups keeps the cgroups above those of containers, and says what containers get.
type Cgroups interface {
	// Ensure makes the pod's cgroup and returns what its sandbox has as parent.
	Ensure(pod *corev1.Pod) (parent string, err error)
	// Update gives the pod's cgroup the limits that follow from the resources of its containers.
	Update(pod *corev1.Pod) error
	// Remove ends what still runs in the cgroup of a pod, and removes it.
	Remove(uid types.UID) error
	Resources(pod *corev1.Pod, c *corev1.Container) *runtimeapi.LinuxContainerResources
	// Orphans are pods that have a cgroup and are not known.
	Orphans(known func(types.UID) bool) ([]types.UID, error)
}

// DeviceOptions is what a container needs to use the devices that it was allocated.
type DeviceOptions struct {
	Devices     []*runtimeapi.Device
	CDI         []*runtimeapi.CDIDevice
	Mounts      []*runtimeapi.Mount
	Env         []corev1.EnvVar
	Annotations map[string]string
}

// Devices allocates devices of plugins.
type Devices interface {
	// Allocate reserves what the pod asks for; what it has already is no error. An error rejects the pod.
	Allocate(ctx context.Context, pod *corev1.Pod) error
	// Options is what a container that is about to start needs for what it was allocated.
	Options(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (DeviceOptions, error)
	Free(uid types.UID)
}

// Config is what workers need. Devices may be nil, the rest of the interfaces not.
type Config struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	Client  kubernetes.Interface

	NodeName string
	// Node is the node as it is known now; nil as long as it is not. Its addresses become those of pods' hosts, its labels and
	// allocatable resources decide which pods are admitted.
	Node func() *corev1.Node

	Volumes Volumes
	Environ Environ
	Prober  Prober
	Cgroups Cgroups
	Devices Devices
	Events  record.EventRecorder
	// Admit are further conditions on pods that come to the node, such as that it is not under pressure.
	Admit []func(pod *corev1.Pod) *Rejection

	Dir     string // of pods: <Dir>/<uid>; shared with the volumes
	Logs    string // of pods' logs; /var/log/pods
	Options Options

	Clock  clock.Clock
	Logger *zap.Logger
}

// Options are what a user may want otherwise. Zero values become the defaults that are named.
type Options struct {
	ClusterDomain  string        // cluster.local
	LogLinks       string        // directory of links to logs by the name of pod and container; none
	SeccompDefault bool          // containers that say nothing get the runtime's profile, not none
	SeccompDir     string        // of profiles that are named; /var/lib/keelson/seccomp
	UnsafeSysctls  []string      // that pods may set beyond the safe ones; a name, or a prefix that ends in *
	MaxPulls       int           // images pulled at the same time; 5
	BackOff        time.Duration // of the second restart; 10 s
	MaxBackOff     time.Duration // 5 min
	Resync         time.Duration // between looks at a pod without any cause; 60 s
	Relist         time.Duration // between looks at the runtime if it sends no events; 1 s
	StaticDir      string        // of manifests of static pods; none
	StaticEvery    time.Duration // between looks at it; 5 s
	UserRangeStart uint32        // first host ID of pods' user namespaces; 65536
	MaxPods        int           // ranges of users; 1024
}

func (o *Options) setDefaults() {
	set(&o.ClusterDomain, "cluster.local")
	set(&o.SeccompDir, "/var/lib/keelson/seccomp")
	set(&o.MaxPulls, 5)
	set(&o.BackOff, 10*time.Second)
	set(&o.MaxBackOff, 5*time.Minute)
	set(&o.Resync, time.Minute)
	set(&o.Relist, time.Second)
	set(&o.StaticEvery, 5*time.Second)
	set(&o.UserRangeStart, userRange)
	set(&o.MaxPods, 1024)
}

// set gives v its default.
func set[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (c *Config) check() error {
	for name, missing := range map[string]bool{
		"Runtime": c.Runtime == nil, "Images": c.Images == nil, "Client": c.Client == nil, "NodeName": c.NodeName == "", "Volumes": c.Volumes == nil,
		"Environ": c.Environ == nil, "Prober": c.Prober == nil, "Cgroups": c.Cgroups == nil, "Events": c.Events == nil, "Dir": c.Dir == "",
	} {
		if missing {
			return errors.New("workers: Config has no " + name)
		}
	}
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("workers: the directory of pods has to be absolute, not %q", c.Dir)
	}
	set(&c.Logs, "/var/log/pods")
	c.Options.setDefaults()
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Node == nil {
		c.Node = func() *corev1.Node { return nil }
	}
	return nil
}

// hostIPs are the addresses of the node, at most one of a family, as pods report them.
func (c *Config) hostIPs() (ips []string) {
	node := c.Node()
	if node == nil {
		return nil
	}
	var v4, v6 bool
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range node.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if a.Type != kind || err != nil || (ip.Is4() && v4) || (ip.Is6() && v6) {
				continue
			}
			v4, v6 = v4 || ip.Is4(), v6 || ip.Is6()
			ips = append(ips, ip.String())
		}
	}
	return ips
}
