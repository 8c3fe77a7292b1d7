package environ

import (
	"errors"
	"net/netip"
	"path/filepath"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
)

// Config is what an Environ works with.
type Config struct {
	Client kubernetes.Interface // reads ConfigMaps and Secrets
	// Services lists the services of the cluster; nil means that there are no service variables. ServicesSynced says that
	// the list is complete; nil means that it always is.
	Services       corelisters.ServiceLister
	ServicesSynced func() bool
	Node           func() *corev1.Node // this node; nil, or an answer of nil, if it is not known
	ClusterDNS     []netip.Addr        // addresses of the cluster's DNS server
	ClusterDomain  string              // for example "cluster.local"
	ResolvConf     string              // the node's, for example "/etc/resolv.conf"; "" means no resolver but the node itself
	HostsFile      string              // the node's; "" is /etc/hosts
	Dir            string              // holds a directory per pod, named by its uid
	// VolumeDir is where a volume of a pod lies on the node, for variables from files; nil means under Dir, as an emptyDir.
	VolumeDir func(pod *corev1.Pod, volume string) (string, error)
	Events    record.EventRecorder // nil drops events
	Logger    *zap.Logger          // nil drops logs
}

// Environ answers for all pods of a node.
type Environ struct {
	cfg Config
	lg  *zap.Logger
}

// New checks the configuration.
func New(cfg Config) (*Environ, error) {
	if cfg.Dir == "" {
		return nil, errors.New("environ: no directory for the pods")
	}
	if cfg.HostsFile == "" {
		cfg.HostsFile = "/etc/hosts"
	}
	if cfg.Node == nil {
		cfg.Node = func() *corev1.Node { return nil }
	}
	if cfg.ServicesSynced == nil {
		cfg.ServicesSynced = func() bool { return true }
	}
	if cfg.Events == nil {
		cfg.Events = &record.FakeRecorder{}
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	e := &Environ{cfg: cfg, lg: cfg.Logger.Named("environ")}
	if cfg.VolumeDir == nil {
		e.cfg.VolumeDir = func(pod *corev1.Pod, volume string) (string, error) {
			return filepath.Join(e.podDir(pod.UID), "volumes", "kubernetes.io~empty-dir", volume), nil
		}
	}
	return e, nil
}

func (e *Environ) podDir(uid types.UID) string { return filepath.Join(e.cfg.Dir, string(uid)) }

// warn records an event of a pod.
func (e *Environ) warn(pod *corev1.Pod, reason, format string, args ...any) {
	e.cfg.Events.Eventf(pod, corev1.EventTypeWarning, reason, format, args...)
}
