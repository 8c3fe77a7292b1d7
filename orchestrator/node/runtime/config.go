//go:build linux

package runtime

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/zap"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/keelson-io/keelson/internal/clock"
)

// Cgroup drivers.
const (
	Cgroupfs = "cgroupfs"
	Systemd  = "systemd"
)

// Config says where a runtime keeps things, and what it stands on.
type Config struct {
	Root   string // what outlives a reboot: records
	State  string // what does not: namespaces, bundles, shims' sockets. Keep it short, sockets lie under it
	Socket string // path of the CRI socket

	Images       Images
	ImageService runtimeapi.ImageServiceServer // served on the socket besides; nil: none
	Network      Network                       // nil: pods have a loopback interface and no more

	CgroupDriver string   // Cgroupfs (the default) or Systemd
	CgroupParent string   // of shims, and of sandboxes that name none; default: /keelson
	SeccompDir   string   // for profiles of the node that are named by a relative path
	CDIDirs      []string // of descriptions of devices, the last first in rank; default: /etc/cdi and /var/run/cdi

	ShimCommand   []string // default: this program, which then calls shim.Reexec first of all
	StreamAddress string   // where exec, attach and port-forward are served; default: 127.0.0.1:0
	Handlers      []string // names of RuntimeClass handlers besides ""
	Version       string   // of the runtime, as `crictl version` shows it; default: 0.0.0

	Logger *zap.Logger // nil: none
	Clock  clock.Clock // nil: the system's
}

// Network gives sandboxes their addresses.
type Network interface {
	// Attach connects a network namespace. Whatever it made when it fails, Detach removes.
	Attach(ctx context.Context, id, netns string, c *runtimeapi.PodSandboxConfig) ([]netip.Addr, error)
	// Detach undoes Attach. It is called again after a failure, and for namespaces that are gone or were never attached.
	Detach(ctx context.Context, id, netns string, c *runtimeapi.PodSandboxConfig) error
}

// Image is one that containers are made from.
type Image struct {
	ID          string // digest of its config, "sha256:..."
	RepoTags    []string
	RepoDigests []string
	Config      ocispec.ImageConfig
}

// MountRequest asks for a root file system.
type MountRequest struct {
	Key        string // by which it is unmounted
	Image      string // an image's ID
	Target     string // a folder
	ReadOnly   bool
	UIDs, GIDs []specs.LinuxIDMapping // of the user namespace that it is for
}

// ErrNoImage is what Images.Resolve answers for an image that is not on the node.
var ErrNoImage = errors.New("no such image on this node")

// Images is the store that root file systems come from.
type Images interface {
	Resolve(ref string) (Image, error) // an error that is ErrNoImage if there is none
	Mount(ctx context.Context, m MountRequest) error
	Unmount(key string) error // with the writable layer; no error if there is none
	Usage(key string) (bytes, inodes uint64, err error)
	Mounted() ([]string, error) // keys found on disk
}

// complete fills in defaults.
func (c Config) complete() (Config, error) {
	switch {
	case c.Root == "" || c.State == "":
		return c, errors.New("runtime: the folders for root and state must be set")
	case c.Images == nil:
		return c, errors.New("runtime: there is no image store")
	case c.CgroupDriver == "":
		c.CgroupDriver = Cgroupfs
	case c.CgroupDriver != Cgroupfs && c.CgroupDriver != Systemd:
		return c, errors.New("runtime: the cgroup driver is cgroupfs or systemd, not " + c.CgroupDriver)
	}
	for _, dir := range []*string{&c.Root, &c.State} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return c, err
		}
		*dir = abs
	}
	def := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	def(&c.CgroupParent, "/keelson")
	def(&c.StreamAddress, "127.0.0.1:0")
	def(&c.Version, "0.0.0")
	if c.CDIDirs == nil {
		c.CDIDirs = cdi.DefaultSpecDirs
	}
	if c.Network == nil {
		c.Network = noNetwork{}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	return c, nil
}

// noNetwork leaves namespaces as they are.
type noNetwork struct{}

func (noNetwork) Attach(context.Context, string, string, *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	return nil, nil
}

func (noNetwork) Detach(context.Context, string, string, *runtimeapi.PodSandboxConfig) error {
	return nil
}
