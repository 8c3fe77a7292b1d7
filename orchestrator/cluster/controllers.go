package cluster

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/record"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/controllers"
	"github.com/keelson-io/keelson/orchestrator/controllers/garbage"
	"github.com/keelson-io/keelson/orchestrator/controllers/inventory"
)

// Control says how the controllers are run.
type Control struct {
	// CA is the cluster's authority, which pods get to know the API server by; Signer signs certificates with it. Without a
	// Signer nobody signs.
	CA     []byte
	Signer interface {
		Sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error)
	}
	// Tokens makes the tokens that are kept in secrets. Without it nobody does.
	Tokens controllers.TokenIssuer
	Loops
	Registerer prometheus.Registerer // nil: none
	Logger     *zap.Logger
}

// Loops are settings of controllers.
type Loops struct {
	Disruption controllers.Disruption
	// Autoscaler is how horizontal pod autoscalers work.
	Autoscaler controllers.AutoscalerConfig
	// LoadBalancerAddresses are what services of type LoadBalancer get their addresses from: ranges such as
	// "192.0.2.10-192.0.2.20" or "192.0.2.0/28".
	LoadBalancerAddresses []string
	// ClusterCIDR is the addresses of pods, of which every node gets a part: one range in CIDR form, or one of each family with a
	// comma between; "": 10.244.0.0/16.
	ClusterCIDR string
}

// defaultClusterCIDR is the addresses of pods.
const defaultClusterCIDR = "10.244.0.0/16"

// Prefixes of a node's part of the pods' ranges.
const (
	nodeBits4 = 24
	nodeBits6 = 64
)

// podRanges are the ranges of pods, with what a node gets of each.
func (l *Loops) podRanges() (out []controllers.NodeRange, err error) {
	for text := range strings.SplitSeq(cmp.Or(l.ClusterCIDR, defaultClusterCIDR), ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("cluster: range of pods: %w", err)
		}
		r := controllers.NodeRange{Cluster: p.Masked(), Bits: nodeBits4}
		if p.Addr().Is6() {
			r.Bits = nodeBits6
		}
		if len(out) > 1 || len(out) == 1 && out[0].Bits == r.Bits {
			return nil, fmt.Errorf("cluster: ranges of pods %q: there is one, or one of each family", l.ClusterCIDR)
		}
		out = append(out, r)
	}
	return out, nil
}

// terminatedPods is how many pods that have ended are kept.
const terminatedPods = 12500

// controllerSet is what all controllers are made from.
type controllerSet struct {
	Control
	*clients
	metadata metadata.Interface
	events   record.EventRecorder
}

// control runs all controllers until the context ends. It calls started once their informers are started.
func control(ctx context.Context, c *clients, cfg Control, started func()) error {
	md, err := metadata.NewForConfig(c.config)
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.client.CoreV1().Events("")})
	s := &controllerSet{
		Control: cfg, clients: c, metadata: md,
		events: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "keelson-controllers"}),
	}
	all, err := s.controllers()
	if err != nil {
		return err
	}
	if err := register(cfg.Registerer, all); err != nil {
		return err
	}
	s.shared.StartWithContext(ctx)
	started()
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range all {
		g.Go(func() error { return ended(ctx, c.Run(ctx)) })
	}
	return g.Wait()
}

// register enters the metrics of all controllers.
func register(r prometheus.Registerer, all []controllers.Controller) error {
	if r == nil {
		return nil
	}
	for _, c := range all {
		measured, ok := c.(controllers.Measured)
		if !ok {
			continue
		}
		for _, m := range measured.Metrics() {
			if err := r.Register(m); err != nil {
				return fmt.Errorf("cluster: metrics: %w", err)
			}
		}
	}
	return nil
}

// ended drops the error of something that ended because it was to end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// controllers makes every controller.
func (s *controllerSet) controllers() (all []controllers.Controller, err error) {
	add := func(c controllers.Controller, e error) {
		all = append(all, c)
		if err == nil {
			err = e
		}
	}
	lg := s.Logger
	add(controllers.NewDeployment(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewReplicaSet(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewReplicationController(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewDaemonSet(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewStatefulSet(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewJob(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewCronJob(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewTTLAfterFinished(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewEndpoints(s.client, s.shared, s.events, lg))
	add(controllers.NewEndpointSlice(s.client, s.shared, s.events, lg))
	add(controllers.NewEndpointSliceMirroring(s.client, s.shared, s.events, lg))
	add(controllers.NewNamespace(s.client, s.metadata, s.namespaced, s.shared, clock.Real, lg))
	add(controllers.NewServiceAccount(s.client, s.shared, lg))
	add(controllers.NewClusterRoleAggregation(s.client, s.shared, lg))
	pool, perr := controllers.ParseAddressRanges(s.LoadBalancerAddresses)
	ranges, rerr := s.podRanges()
	if perr != nil || rerr != nil {
		return nil, errors.Join(perr, rerr)
	}
	add(controllers.NewLoadBalancer(s.client, s.shared, s.events, lg, pool))
	add(controllers.NewPersistentVolume(s.client, s.shared, s.events, lg))
	add(controllers.NewVolumeProtection(s.client, s.shared, lg))
	add(controllers.NewEphemeralVolume(s.client, s.shared, s.events, lg))
	add(controllers.NewNodeIPAM(s.client, s.shared, s.events, lg, ranges...))
	add(controllers.NewNodeLifecycle(s.client, s.shared, s.events, clock.Real, lg, s.Disruption))
	add(controllers.NewTaintEviction(s.client, s.shared, s.events, clock.Real, lg))
	add(controllers.NewPodGC(s.client, s.shared, clock.Real, lg, terminatedPods), nil)
	if len(s.CA) > 0 {
		add(controllers.NewRootCA(s.client, s.shared, lg, s.CA))
	}
	add(controllers.NewCSRCleaner(s.client, s.shared, clock.Real, lg), nil)
	add(controllers.NewBootstrapSigner(s.client, s.shared, clock.Real, lg))
	add(controllers.NewTokenCleaner(s.client, s.shared, clock.Real, lg))
	if s.Tokens != nil {
		add(controllers.NewTokenSecrets(s.client, s.shared, s.Tokens, s.CA, lg))
	}
	if s.Signer != nil {
		add(controllers.NewCSR(s.client, s.shared, s.Signer, clock.Real, lg))
	}
	add(controllers.NewMigration(s.client, s.metadata, s.migratable, s.shared, clock.Real, lg))
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.client.Discovery()))
	getter, serr := scale.NewForConfig(jsonConfig(s.config), mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(s.client.Discovery()))
	if serr != nil {
		return nil, serr
	}
	scales := controllers.Scales{Client: getter, Mapper: mapper}
	add(controllers.NewDisruption(s.client, scales, s.shared, s.events, clock.Real, lg))
	m, merr := s.podMetrics(mapper)
	if merr != nil {
		return nil, merr
	}
	add(controllers.NewHorizontalPodAutoscaler(s.client, scales, m, s.shared, s.events, clock.Real, lg, s.Autoscaler))
	inv := inventory.New(inventory.Config{Metadata: s.metadata, Resources: s.collectable, Clock: clock.Real, Logger: lg})
	add(inv, nil)
	add(garbage.New(garbage.Config{Metadata: s.metadata, Mapper: mapper, Inventory: inv, Logger: lg}), nil)
	add(controllers.NewResourceQuota(s.client, s.shared, inv, clock.Real, lg))
	return all, err
}

// metricsTimeout bounds a question to servers of metrics, which may be anybody's.
const metricsTimeout = 30 * time.Second

// podMetrics is where autoscalers read metrics.
func (s *controllerSet) podMetrics(mapper meta.RESTMapper) (m controllers.PodMetrics, err error) {
	config := jsonConfig(s.config)
	config.Timeout = metricsTimeout
	resources, err := metricsclient.NewForConfig(config)
	if err != nil {
		return m, fmt.Errorf("cluster: %w", err)
	}
	external, err := external_metrics.NewForConfig(config)
	if err != nil {
		return m, fmt.Errorf("cluster: %w", err)
	}
	versions := custom_metrics.NewAvailableAPIsGetter(s.client.Discovery())
	return controllers.PodMetrics{
		Resources: resources, External: external, Custom: custom_metrics.NewForConfig(config, mapper, versions), Versions: versions, Mapper: mapper,
	}, nil
}

// jsonConfig is for clients of objects whose Go types are not known.
func jsonConfig(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.ContentType, c.AcceptContentTypes = "application/json", "application/json"
	return c
}

// preferred lists the resources that have some verbs, each in one version. With an error the list is not complete.
func (s *controllerSet) preferred(verbs ...string) (map[schema.GroupVersionResource]metav1.APIResource, error) {
	lists, err := s.client.Discovery().ServerPreferredResources()
	out := map[schema.GroupVersionResource]metav1.APIResource{}
	for _, l := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: verbs}, lists) {
		gv, perr := schema.ParseGroupVersion(l.GroupVersion)
		if perr != nil {
			return out, fmt.Errorf("cluster: discovery: %w", perr)
		}
		for _, r := range l.APIResources {
			out[gv.WithResource(r.Name)] = r
		}
	}
	return out, err
}

// uncollected are resources that own nothing and are owned by nobody, but change often.
func uncollected() map[schema.GroupResource]bool {
	return map[schema.GroupResource]bool{{Resource: "events"}: true, {Group: "events.k8s.io", Resource: "events"}: true}
}

// collectable lists what the inventory keeps.
func (s *controllerSet) collectable() ([]inventory.Resource, error) {
	all, err := s.preferred("delete", "list", "watch")
	skip := uncollected()
	var out []inventory.Resource
	for r, of := range all {
		if !skip[r.GroupResource()] {
			out = append(out, inventory.Resource{GroupVersionResource: r, Kind: of.Kind, Namespaced: of.Namespaced})
		}
	}
	return out, err
}

// migratable lists what can be stored again.
func (s *controllerSet) migratable() ([]schema.GroupVersionResource, error) {
	all, err := s.preferred("list", "patch")
	return slices.Collect(maps.Keys(all)), err
}

// namespaced lists what is deleted with a namespace.
func (s *controllerSet) namespaced() ([]controllers.NamespacedResource, error) {
	all, err := s.preferred("delete", "list")
	var out []controllers.NamespacedResource
	for r, of := range all {
		if of.Namespaced {
			has := discovery.SupportsAllVerbs{Verbs: []string{"deletecollection"}}.Match(r.GroupVersion().String(), &of)
			out = append(out, controllers.NamespacedResource{GroupVersionResource: r, DeleteCollection: has})
		}
	}
	return out, err
}
