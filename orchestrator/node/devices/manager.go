package devices

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Config is what a Manager is made of. Dir must be set.
type Config struct {
	// Dir holds the sockets, and what was allocated. It is short: the path of a socket has at most 107 bytes.
	Dir string
	// Known is whether the node has a pod, or may have it: what pods that are gone were allocated is free. nil: it always may.
	Known  func(uid types.UID) bool
	Clock  clock.Clock // nil: clock.Real
	Logger *zap.Logger // nil: none
}

const (
	socketName  = "kubelet.sock" // by which plugins look for it
	recordsName = "allocations.json"
	callTimeout = 30 * time.Second
	maxPath     = 107
	// absence is after how long a resource is forgotten whose plugin is gone.
	absence = 5 * time.Minute
)

// ErrTooLong tells that no socket can be in a directory.
var ErrTooLong = errors.New("too long a path")

// Manager is described in the package comment.
type Manager struct {
	api.UnimplementedRegistrationServer
	cfg Config

	gate sync.Mutex // held for an allocation

	mu      sync.Mutex
	kinds   map[string]*kind // by resource
	records map[types.UID]map[string]held
	ctx     context.Context // of Run; nil before and after
	count   int64           // of plugins that registered
	plugins sync.WaitGroup
}

// kind is a resource with its devices.
type kind struct {
	plugin  *plugin // nil: it is gone
	devices map[string]bool
	gone    time.Time // when the plugin went, or the agent began to wait for it
}

// New makes a Manager that knows what an earlier one allocated. Run it.
func New(cfg Config) (*Manager, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("devices: the directory has to be absolute, not %q", cfg.Dir)
	}
	if cfg.Known == nil {
		cfg.Known = func(types.UID) bool { return true }
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if socket := filepath.Join(cfg.Dir, socketName); len(socket) > maxPath {
		return nil, fmt.Errorf("devices: %s is %w: %d bytes, and a socket has at most %d", socket, ErrTooLong, len(socket), maxPath)
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	m := &Manager{cfg: cfg, kinds: map[string]*kind{}}
	file, err := readRecords(m.path())
	if err != nil {
		return nil, err
	}
	m.records = file.Pods
	for _, r := range file.Resources {
		m.kinds[r] = &kind{gone: cfg.Clock.Now()}
	}
	return m, nil
}

func (m *Manager) path() string { return filepath.Join(m.cfg.Dir, recordsName) }

// Run takes plugins until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := m.clear(); err != nil {
		return err
	}
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	l, err := net.Listen("unix", filepath.Join(m.cfg.Dir, socketName))
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	server := grpc.NewServer()
	api.RegisterRegistrationServer(server, m)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err = <-served:
	case <-ctx.Done():
		server.Stop()
		<-served
	}
	m.mu.Lock()
	m.ctx = nil
	m.mu.Unlock()
	cancel()
	m.plugins.Wait()
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return nil
}

// clear removes the sockets that an earlier agent and its plugins left.
func (m *Manager) clear() error {
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSocket == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(m.cfg.Dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("devices: %w", err)
		}
	}
	return nil
}

// Register implements the API: a plugin says that it is there.
func (m *Manager) Register(_ context.Context, req *api.RegisterRequest) (*api.Empty, error) {
	switch {
	case req.GetVersion() != api.Version:
		return nil, status.Errorf(codes.InvalidArgument, "devices: version %q of the API is not served, only %s", req.GetVersion(), api.Version)
	case !extended(req.GetResourceName()):
		return nil, status.Errorf(codes.InvalidArgument, "devices: %q is no name of an extended resource", req.GetResourceName())
	case req.GetEndpoint() == "" || filepath.Base(req.GetEndpoint()) != req.GetEndpoint():
		return nil, status.Errorf(codes.InvalidArgument, "devices: %q is no name of a socket in %s", req.GetEndpoint(), m.cfg.Dir)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		return nil, status.Error(codes.Unavailable, "devices: the agent ends")
	}
	p, err := dial(filepath.Join(m.cfg.Dir, req.Endpoint), req.ResourceName)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ctx, cancel := context.WithCancel(m.ctx)
	m.count++
	p.cancel, p.born = cancel, m.count
	m.plugins.Go(func() { m.follow(ctx, p) })
	return &api.Empty{}, nil
}

// extended is whether a resource is one that plugins may serve.
func extended(name string) bool {
	domain, _, ok := strings.Cut(name, "/")
	if !ok || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasPrefix(name, corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(name)) == 0
}

// follow takes a plugin's devices until its stream ends.
func (m *Manager) follow(ctx context.Context, p *plugin) {
	lg := m.cfg.Logger.With(zap.String("resource", p.resource))
	err := p.watch(ctx, func(devices map[string]bool) { m.tell(p, devices) })
	p.cancel()
	if ctx.Err() == nil {
		lg.Warn("a device plugin is gone", zap.Error(err))
	}
	m.mu.Lock()
	if k := m.kinds[p.resource]; k != nil && k.plugin == p {
		k.plugin, k.gone = nil, m.cfg.Clock.Now()
		for id := range k.devices {
			k.devices[id] = false
		}
	}
	m.mu.Unlock()
	if err := p.conn.Close(); err != nil {
		lg.Warn("a device plugin's connection", zap.Error(err))
	}
}

// tell takes the devices of a plugin. One that registers anew takes the place of the one before.
func (m *Manager) tell(p *plugin, devices map[string]bool) {
	m.mu.Lock()
	k := m.kinds[p.resource]
	if k == nil {
		k = &kind{}
		m.kinds[p.resource] = k
	}
	before, fresh := k.plugin, k.plugin != p
	if fresh && before != nil && before.born > p.born {
		m.mu.Unlock()
		p.cancel() // it was replaced before it told anything
		return
	}
	k.plugin, k.devices = p, devices
	var err error
	if fresh {
		err = m.save()
	}
	m.mu.Unlock()
	if err != nil {
		m.cfg.Logger.Warn("the names of resources are not recorded", zap.Error(err))
	}
	if fresh {
		m.cfg.Logger.Info("a device plugin", zap.String("resource", p.resource), zap.Int("devices", len(devices)))
		if before != nil {
			before.cancel()
		}
	}
}

// Resources are the devices that the node has, and those that are healthy.
func (m *Manager) Resources() (capacity, allocatable corev1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	for name, k := range m.kinds {
		if k.plugin == nil && m.cfg.Clock.Now().Sub(k.gone) >= absence {
			k.devices = nil
		}
		healthy := 0
		for _, is := range k.devices {
			if is {
				healthy++
			}
		}
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(int64(len(k.devices)), resource.DecimalSI)
		allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(int64(healthy), resource.DecimalSI)
	}
	return capacity, allocatable
}
