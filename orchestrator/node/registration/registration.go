package registration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Runtime is the part of a CRI runtime that tells of itself.
type Runtime interface {
	Version(ctx context.Context, in *runtimeapi.VersionRequest, opts ...grpc.CallOption) (*runtimeapi.VersionResponse, error)
	Status(ctx context.Context, in *runtimeapi.StatusRequest, opts ...grpc.CallOption) (*runtimeapi.StatusResponse, error)
}

// Images is the part of a CRI image service that lists images.
type Images interface {
	ListImages(ctx context.Context, in *runtimeapi.ListImagesRequest, opts ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error)
}

// Pressure says what a node runs out of.
type Pressure struct{ Memory, Disk, PIDs bool }

// Spec is what a Node object has that its machine does not tell.
type Spec struct {
	Labels, Annotations map[string]string
	// Taints are those of a new Node; they are not changed afterwards.
	Taints     []corev1.Taint
	ProviderID string
	// Unschedulable makes a new Node take no pods.
	Unschedulable bool
}

// Config is what a Registration is made of. Client, Name, Runtime and Images must be set.
type Config struct {
	Client  kubernetes.Interface
	Name    string
	Runtime Runtime
	Images  Images
	Spec    Spec
	// Addresses are the node's, the most important first; nil: MachineAddresses.
	Addresses func() []netip.Addr
	// Port is that of the node's server; 0: it has none.
	Port int32
	// Version is that of the agent, "v1.37.2" for example.
	Version string
	// Dir is on the file system of the node's own files; "": /.
	Dir string
	// Reserved is what pods do not get.
	Reserved corev1.ResourceList
	// ReservedOf is what pods do not get beyond that, of what the node has; nil: nothing.
	ReservedOf func(capacity corev1.ResourceList) corev1.ResourceList
	// MaxPods is how many pods the node takes; 0: 110.
	MaxPods int64
	// Pressure says what the node runs out of; nil: nothing.
	Pressure func() Pressure
	// Devices are resources beside those of the machine; nil: none. What is in them replaces what the Node has.
	Devices func() (capacity, allocatable corev1.ResourceList)
	// VolumesInUse are the attached volumes that pods use; nil: none.
	VolumesInUse func() []corev1.UniqueVolumeName
	Events       record.EventRecorder // nil: none
	Clock        clock.Clock          // nil: clock.Real
	Logger       *zap.Logger          // nil: none
}

const (
	defaultMaxPods = 110

	leaseSeconds = 40
	leaseEvery   = leaseSeconds / 4 * time.Second
	// statusEvery is the time between two looks at all of the status, reportEvery that after which it is written even if it is
	// as it was.
	statusEvery = 10 * time.Second
	reportEvery = 5 * time.Minute
	// The runtime is looked at every lookEvery, and every firstLooks until it was ready, or until patience is over.
	lookEvery  = time.Second
	firstLooks = 100 * time.Millisecond
	patience   = time.Minute
	// registering is tried again after firstRetry, and after twice as long each time up to lastRetry.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 7 * time.Second
	// callTimeout bounds a call of the API server or the runtime.
	callTimeout = 10 * time.Second
)

// Registration is described in the package comment.
type Registration struct {
	cfg     Config
	machine machine
	info    corev1.NodeSystemInfo
	store   cache.Store
	watch   cache.Controller
	last    atomic.Pointer[corev1.Node] // as the API server answered the last time
}

// New makes a Registration. Run it.
func New(cfg Config) (*Registration, error) {
	if cfg.Client == nil || cfg.Name == "" || cfg.Runtime == nil || cfg.Images == nil {
		return nil, errors.New("registration: a client, a name, a runtime and its images are needed")
	}
	if cfg.Addresses == nil {
		cfg.Addresses = MachineAddresses
	}
	if cfg.Dir == "" {
		cfg.Dir = "/"
	}
	if cfg.MaxPods == 0 {
		cfg.MaxPods = defaultMaxPods
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	m := machine{os.DirFS("/")}
	r := &Registration{cfg: cfg, machine: m, info: m.info()}
	own := fields.OneTermEqualSelector(metav1.ObjectNameField, cfg.Name).String()
	r.store, r.watch = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (k8sruntime.Object, error) {
				o.FieldSelector = own
				return cfg.Client.CoreV1().Nodes().List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.FieldSelector = own
				return cfg.Client.CoreV1().Nodes().Watch(ctx, o)
			},
		}, cfg.Client),
		ObjectType: &corev1.Node{}, Handler: cache.ResourceEventHandlerFuncs{},
	})
	return r, nil
}

// Node is the latest known state of the Node object, nil if there is none yet. It must not be changed.
func (r *Registration) Node() *corev1.Node {
	if x, ok, err := r.store.GetByKey(r.cfg.Name); ok && err == nil {
		if n, ok := x.(*corev1.Node); ok && !older(n, r.last.Load()) {
			return n
		}
	}
	return r.last.Load()
}

// older says whether an object was written before another one.
func older(a, b *corev1.Node) bool {
	if b == nil || a.UID != b.UID {
		return false
	}
	c, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && c < 0
}

// Run registers the node and keeps it alive until the context ends.
func (r *Registration) Run(ctx context.Context) error {
	if !r.registered(ctx) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		r.watch.RunWithContext(ctx)
		return nil
	})
	g.Go(func() error {
		r.heartbeat(ctx)
		return nil
	})
	g.Go(func() error {
		r.report(ctx)
		return nil
	})
	return g.Wait()
}

// registered makes the Node object, until it is there. It is false if the context ended before.
func (r *Registration) registered(ctx context.Context) bool {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := r.register(ctx)
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
			return true
		}
		r.cfg.Logger.Warn("the node could not be registered", zap.String("node", r.cfg.Name), zap.Error(err))
		t := r.cfg.Clock.NewTimer(wait)
		select {
		case <-t.C():
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func (r *Registration) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nodes := r.cfg.Client.CoreV1().Nodes()
	made, err := nodes.Create(ctx, r.initial(ctx), metav1.CreateOptions{})
	if err == nil {
		r.cfg.Logger.Info("the node is registered", zap.String("node", r.cfg.Name))
		r.last.Store(made)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		is, err := nodes.Get(ctx, r.cfg.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		want := r.reconciled(is)
		if !equality.Semantic.DeepEqual(want, is) {
			if is, err = nodes.Update(ctx, want, metav1.UpdateOptions{}); err != nil {
				return err
			}
		}
		r.last.Store(is)
		return nil
	})
}

// labels are those that the node has by itself, and those that it was given.
func (r *Registration) labels() map[string]string {
	out := map[string]string{
		corev1.LabelHostname: r.cfg.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	maps.Copy(out, r.cfg.Spec.Labels)
	return out
}

// initial is a new Node. It is not ready until the runtime was asked.
func (r *Registration) initial(ctx context.Context) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: r.cfg.Name, Labels: r.labels(), Annotations: maps.Clone(r.cfg.Spec.Annotations)},
		Spec:       corev1.NodeSpec{ProviderID: r.cfg.Spec.ProviderID, Taints: slices.Clone(r.cfg.Spec.Taints), Unschedulable: r.cfg.Spec.Unschedulable},
	}
	n.Status = r.status(ctx, n, r.state(ctx))
	return n
}

// reconciled is a Node that was there, with what it is to have.
func (r *Registration) reconciled(is *corev1.Node) *corev1.Node {
	n := is.DeepCopy()
	n.Labels, n.Annotations = merged(n.Labels, r.labels()), merged(n.Annotations, r.cfg.Spec.Annotations)
	if n.Spec.ProviderID == "" {
		n.Spec.ProviderID = r.cfg.Spec.ProviderID
	}
	return n
}

func merged(into, from map[string]string) map[string]string {
	if into == nil && len(from) > 0 {
		into = map[string]string{}
	}
	maps.Copy(into, from)
	return into
}

// heartbeat renews the node's lease until the context ends.
func (r *Registration) heartbeat(ctx context.Context) {
	var lease *coordinationv1.Lease
	t := r.cfg.Clock.NewTicker(leaseEvery)
	defer t.Stop()
	for wait := firstRetry; ; {
		next, err := r.renew(ctx, lease)
		if lease = next; err == nil {
			wait = firstRetry
			select {
			case <-t.C():
			case <-ctx.Done():
				return
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		r.cfg.Logger.Warn("the node's lease was not renewed", zap.Error(err))
		again := r.cfg.Clock.NewTimer(wait)
		wait = min(2*wait, lastRetry)
		select {
		case <-again.C():
		case <-ctx.Done():
		}
		again.Stop()
	}
}

// renew renews the lease that the last renewal left, or that the API server has.
func (r *Registration) renew(ctx context.Context, l *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	leases := r.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	var err error
	if l == nil {
		l, err = leases.Get(ctx, r.cfg.Name, metav1.GetOptions{})
	}
	made := apierrors.IsNotFound(err)
	if err != nil && !made {
		return nil, err
	}
	if made {
		l = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: r.cfg.Name, Namespace: corev1.NamespaceNodeLease}}
	}
	l = l.DeepCopy()
	seconds, now := int32(leaseSeconds), metav1.NewMicroTime(r.cfg.Clock.Now())
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &r.cfg.Name, &seconds, &now
	if n := r.Node(); n != nil {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
	}
	if made {
		l, err = leases.Create(ctx, l, metav1.CreateOptions{})
	} else {
		l, err = leases.Update(ctx, l, metav1.UpdateOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", r.cfg.Name, err)
	}
	return l, nil
}
