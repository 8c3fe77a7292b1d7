package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Config is what Volumes works with.
type Config struct {
	Dir    string // holds a directory per pod, named by its uid
	Mounts string // persistent volumes are mounted below it; "" is "plugins" beside Dir
	Client kubernetes.Interface
	Node   func() *corev1.Node // this node; nil, or an answer of nil, if it is not known
	Images runtimeapi.ImageServiceClient
	// Credentials are those to try for an image of a pod, in this order; nil means none.
	Credentials func(ctx context.Context, pod *corev1.Pod, image string) ([]*runtimeapi.AuthConfig, error)
	// IDMappings are those of a pod in a user namespace of its own; nil, or an answer of nil, if it has none.
	IDMappings func(pod *corev1.Pod) (uids, gids []*runtimeapi.IDMapping)
	Plugins    []Provisioned // that mount persistent volumes of CSI drivers; nil is that of hostpath.keelson.io
	// RecursiveReadOnly says that the runtime of a pod can make mounts read-only with all below them; nil: it cannot.
	RecursiveReadOnly func(pod *corev1.Pod) bool
	Events            record.EventRecorder // nil drops events
	Clock             clock.Clock          // nil is the system's
	Logger            *zap.Logger          // nil drops logs
}

// Volumes makes the volumes of all pods of a node.
type Volumes struct {
	cfg     Config
	lg      *zap.Logger
	sources *sources
	claims  *claims
	metrics *metrics
	wake    chan struct{}

	mu    sync.Mutex
	pods  map[types.UID]*podVolumes
	dirty map[types.UID]bool // to be renewed by Run
}

// podVolumes is what was made for a pod.
type podVolumes struct {
	mu       sync.Mutex // held while anything is done for the pod
	pod      *corev1.Pod
	ready    bool // all are made
	retried  bool // Setup was called before
	gone     bool // torn down
	volumes  map[string]*made
	seen     map[objectKey]metav1.Object // objects as they were last read; nil for one that was missing
	creds    map[string]*credential      // by volume and place in it
	renew    time.Time                   // when something has to be renewed; zero if nothing has
	failures int                         // renewals that failed in a row
}

// made is a volume that was made.
type made struct {
	name     string
	path     string // on the node; "" for an image
	image    *runtimeapi.ImageSpec
	device   string // of a volume that is a block device
	readOnly bool
	host     bool // the node's own files: neither given to the pod's group nor counted
	claim    *types.NamespacedName
}

// New checks the configuration and makes the directory of the pods.
func New(cfg Config) (*Volumes, error) {
	if cfg.Dir == "" || cfg.Client == nil {
		return nil, errors.New("volume: a directory and a client are needed")
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	var err error
	if cfg.Dir, err = realPath(cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.Mounts == "" {
		cfg.Mounts = filepath.Join(filepath.Dir(cfg.Dir), "plugins")
	}
	if err := os.MkdirAll(cfg.Mounts, 0o750); err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	if cfg.Mounts, err = realPath(cfg.Mounts); err != nil {
		return nil, err
	}
	if cfg.Node == nil {
		cfg.Node = func() *corev1.Node { return nil }
	}
	if cfg.IDMappings == nil {
		cfg.IDMappings = func(*corev1.Pod) (uids, gids []*runtimeapi.IDMapping) { return nil, nil }
	}
	if cfg.RecursiveReadOnly == nil {
		cfg.RecursiveReadOnly = func(*corev1.Pod) bool { return false }
	}
	if cfg.Events == nil {
		cfg.Events = &record.FakeRecorder{}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	lg := cfg.Logger.Named("volume")
	if cfg.Plugins == nil {
		cfg.Plugins = []Provisioned{&loopImages{lg: lg}}
	}
	v := &Volumes{cfg: cfg, lg: lg, metrics: newMetrics(), wake: make(chan struct{}, 1), pods: map[types.UID]*podVolumes{}, dirty: map[types.UID]bool{}}
	v.sources = newSources(cfg.Client, lg, v.touch)
	v.claims = newClaims(v.cfg, lg)
	return v, nil
}

// doneDir holds a file per volume that is done, below those of a pod.
const doneDir = ".done"

// realPath resolves links, so that paths compare with those of the table of mounts.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", fmt.Errorf("volume: %w", err)
	}
	return abs, nil
}

// Metrics are counts and durations of what is done.
func (v *Volumes) Metrics() []prometheus.Collector { return v.metrics.collectors() }

// of finds or makes the state of a pod.
func (v *Volumes) of(pod *corev1.Pod) *podVolumes {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.pods[pod.UID]
	if p == nil {
		p = &podVolumes{volumes: map[string]*made{}, seen: map[objectKey]metav1.Object{}, creds: map[string]*credential{}}
		v.pods[pod.UID] = p
	}
	return p
}

func (v *Volumes) known(uid types.UID) *podVolumes {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pods[uid]
}

func (v *Volumes) podDir(uid types.UID) string { return filepath.Join(v.cfg.Dir, string(uid)) }

// volumeDir is where a volume of a pod lies. kind is as in "empty-dir".
func (v *Volumes) volumeDir(uid types.UID, kind, name string) string {
	return filepath.Join(v.podDir(uid), "volumes", "kubernetes.io~"+kind, name)
}

// Path is where a volume of a pod lies on the node, once Setup has made it.
func (v *Volumes) Path(pod *corev1.Pod, volume string) (string, error) {
	p := v.known(pod.UID)
	if p == nil {
		return "", fmt.Errorf("volume %q is not mounted", volume)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.volumes[volume]
	if m == nil || m.path == "" {
		return "", fmt.Errorf("volume %q is not mounted", volume)
	}
	return m.path, nil
}

// SetupError says which volumes of a pod could not be made. Each is worded for an event of its own.
type SetupError struct{ Errs []error }

// Error is the messages, one a line.
func (e *SetupError) Error() string { return errors.Join(e.Errs...).Error() }

// Unwrap gives the errors.
func (e *SetupError) Unwrap() []error { return e.Errs }

// Setup makes the volumes of a pod. Called again it makes what is missing, and brings files of the downward API up to date
// with the pod that it is given: that is cheap if nothing has changed. The error is a *SetupError if volumes are at fault.
func (v *Volumes) Setup(ctx context.Context, pod *corev1.Pod) error {
	p := v.of(pod)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return fmt.Errorf("volume: pod %s/%s is torn down", pod.Namespace, pod.Name)
	}
	if p.ready {
		before := p.pod
		p.pod = pod
		if sameDownward(before, pod) {
			return nil
		}
		return v.renewFiles(ctx, p, false)
	}
	begin := v.cfg.Clock.Now()
	p.pod = pod
	err := v.makeAll(ctx, p)
	v.metrics.setup(err, v.cfg.Clock.Now().Sub(begin))
	if err == nil {
		p.ready = true
		if p.retried { // what an earlier attempt made may be out of date
			v.touch(pod.UID)
		}
	}
	p.retried = true
	v.poke()
	return err
}

// makeAll makes those volumes that are missing.
func (v *Volumes) makeAll(ctx context.Context, p *podVolumes) error {
	if err := os.MkdirAll(filepath.Join(v.podDir(p.pod.UID), "volumes"), 0o750); err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	var errs []error
	for i := range p.pod.Spec.Volumes {
		vol := &p.pod.Spec.Volumes[i]
		if p.volumes[vol.Name] != nil {
			continue
		}
		m, err := v.make(ctx, p, vol)
		if err != nil {
			v.lg.Debug("a volume failed", zap.String("pod", p.pod.Namespace+"/"+p.pod.Name), zap.String("volume", vol.Name), zap.Error(err))
			errs = append(errs, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", vol.Name, err))
			continue
		}
		m.name = vol.Name
		p.volumes[vol.Name] = m
	}
	v.sources.use(p.pod.UID, p.seen)
	if len(errs) > 0 {
		return &SetupError{Errs: errs}
	}
	return nil
}

// make makes one volume.
func (v *Volumes) make(ctx context.Context, p *podVolumes, vol *corev1.Volume) (*made, error) {
	switch src := &vol.VolumeSource; {
	case src.EmptyDir != nil:
		return v.emptyDir(p.pod, vol)
	case src.HostPath != nil:
		return hostPath(src.HostPath)
	case src.ConfigMap != nil, src.Secret != nil, src.DownwardAPI != nil, src.Projected != nil:
		return v.files(ctx, p, vol)
	case src.PersistentVolumeClaim != nil, src.Ephemeral != nil:
		return v.claim(ctx, p.pod, vol)
	case src.Image != nil:
		return v.image(ctx, p.pod, src.Image)
	case src.CSI != nil:
		return nil, fmt.Errorf("no driver %q for inline volumes on this node", src.CSI.Driver)
	}
	return nil, errors.New("no volume plugin matched")
}

// isDone says that a volume of a pod was given to its group already: an agent that starts again does not walk through what
// its pods are working on.
func (v *Volumes) isDone(uid types.UID, volume string) bool {
	_, err := os.Stat(filepath.Join(v.podDir(uid), "volumes", doneDir, volume))
	return err == nil
}

// done notes it.
func (v *Volumes) done(uid types.UID, volume string) error {
	dir := filepath.Join(v.podDir(uid), "volumes", doneDir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, volume), nil, 0o600)
}

// touch has a pod's files renewed soon.
func (v *Volumes) touch(uid types.UID) {
	v.mu.Lock()
	if _, known := v.pods[uid]; known {
		v.dirty[uid] = true
	}
	v.mu.Unlock()
	v.poke()
}

func (v *Volumes) poke() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}
