package aggregate

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Services finds services and what is behind them.
type Services interface {
	// Resolve returns host and port of an endpoint of a service's port.
	Resolve(ctx context.Context, namespace, service string, port int32) (address string, err error)
	// Service returns a service, or a status error NotFound.
	Service(ctx context.Context, namespace, name string) (*corev1.Service, error)
	Slices(ctx context.Context, namespace, service string) ([]*discoveryv1.EndpointSlice, error)
}

// Objects writes APIServices. change says whether it changed the object; if not, nothing is written.
type Objects interface {
	Create(ctx context.Context, o *apiregistrationv1.APIService) error
	Update(ctx context.Context, name string, change func(o *apiregistrationv1.APIService) bool) error
	UpdateStatus(ctx context.Context, name string, change func(o *apiregistrationv1.APIService) bool) error
	Delete(ctx context.Context, o *apiregistrationv1.APIService) error
}

// Config is what an Aggregator needs. All but Certificate, Registerer, Clock and Logger must be set.
type Config struct {
	Services Services
	Objects  Objects
	// Local are the group versions that this server has, and whether they come and go.
	Local func() map[schema.GroupVersion]bool
	// Yielding are groups of Local that other servers often take over: who does keeps them when this server starts again.
	Yielding map[string]bool
	// Certificate is who this server is to others; nil: nobody.
	Certificate *tls.Certificate
	// Fail answers with an error.
	Fail       func(w http.ResponseWriter, r *http.Request, err error)
	Registerer prometheus.Registerer // nil: none
	Clock      clock.Clock           // nil: clock.Real
	Logger     *zap.Logger           // nil: none
}

// Aggregator is described in the package comment.
type Aggregator struct {
	cfg     Config
	metrics *metrics
	view    atomic.Pointer[view]
	changed chan struct{} // there is something to do

	mu       sync.Mutex
	services map[string]*apiregistrationv1.APIService // by name; shared, never changed
	remotes  map[string]*remote                       // those with a service
	settled  bool                                     // what was only to be done at the start is done
}

// view is what requests read.
type view struct {
	remotes   map[schema.GroupVersion]route
	discovery *discovery.Aggregated
	schemas   map[string]string
}

// route is where the requests for a group version go.
type route struct {
	*remote
	available bool
}

// New makes an Aggregator. Run it. It is an error if its metrics are there already.
func New(cfg Config) (*Aggregator, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("aggregate: metrics: %w", err)
	}
	a := &Aggregator{
		cfg: cfg, metrics: m, changed: make(chan struct{}, 1), services: map[string]*apiregistrationv1.APIService{}, remotes: map[string]*remote{},
	}
	a.view.Store(&view{discovery: &discovery.Aggregated{}})
	return a, nil
}

// Discovery is what there is beside this server's own kinds. It is never changed: a change is another pointer.
func (a *Aggregator) Discovery() *discovery.Aggregated { return a.view.Load().discovery }

// Schemas are the URLs of the documents of OpenAPI 3 that other servers have, by path: "apis/<group>/<version>".
func (a *Aggregator) Schemas() map[string]string { return a.view.Load().schemas }

// Poke says that Local may have changed.
func (a *Aggregator) Poke() {
	select {
	case a.changed <- struct{}{}:
	default: // it is known already
	}
}

// Set takes note of APIServices.
func (a *Aggregator) Set(objects ...kinds.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range objects {
		s, ok := o.(*apiregistrationv1.APIService)
		if !ok {
			continue
		}
		a.metrics.changed(a.services[s.Name], s)
		a.services[s.Name] = s
		old := a.remotes[s.Name]
		switch {
		case s.Spec.Service == nil || own(s):
			a.drop(s.Name)
		case old == nil || old.uid != s.UID || !equality.Semantic.DeepEqual(old.spec, s.Spec):
			a.drop(s.Name)
			a.remotes[s.Name] = a.newRemote(s)
		}
	}
	a.publish()
	a.Poke()
}

// Remove takes note that APIServices are gone.
func (a *Aggregator) Remove(objects ...kinds.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range objects {
		a.metrics.gone(o.GetName())
		delete(a.services, o.GetName())
		a.drop(o.GetName())
	}
	a.publish()
	a.Poke()
}

// own says whether an APIService is of the group that APIServices are in, which is never handed over.
func own(s *apiregistrationv1.APIService) bool { return s.Spec.Group == apiregistrationv1.GroupName }

func (a *Aggregator) drop(name string) {
	if r := a.remotes[name]; r != nil {
		r.close()
		delete(a.remotes, name)
	}
}

// publish makes a new view, unless it is as the last one. The mutex is held.
func (a *Aggregator) publish() {
	v := &view{remotes: map[schema.GroupVersion]route{}, schemas: map[string]string{}}
	v.discovery = &discovery.Aggregated{Ranks: map[schema.GroupVersion]discovery.Rank{}, Remote: map[schema.GroupVersion]discovery.Remote{}}
	for name, s := range a.services {
		gv := schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
		if rank := (discovery.Rank{Group: s.Spec.GroupPriorityMinimum, Version: s.Spec.VersionPriority}); !own(s) && rank != discovery.RankOf(gv) {
			v.discovery.Ranks[gv] = rank
		}
		if r := a.remotes[name]; r != nil {
			available := helper.IsAPIServiceConditionTrue(s, apiregistrationv1.Available)
			v.remotes[gv] = route{r, available}
			if available && r.schema != "" {
				v.schemas[r.root()[1:]] = r.schema
			}
			v.discovery.Remote[gv] = discovery.Remote{Resources: r.resources, Stale: !available || r.resources == nil}
		}
	}
	last := a.view.Load()
	if reflect.DeepEqual(last.discovery, v.discovery) {
		v.discovery = last.discovery
		if maps.Equal(last.schemas, v.schemas) && maps.Equal(last.remotes, v.remotes) {
			return
		}
	}
	a.view.Store(v)
}

const (
	retryAfter = time.Second
	checkEvery = 30 * time.Second // remote servers that answer; those that do not: no later
)

// Run keeps the objects as they should be until the context ends. All APIServices must have been Set before.
func (a *Aggregator) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer func() {
		wg.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		for name := range a.remotes {
			a.drop(name)
		}
	}()
	for {
		wait := checkEvery
		if err := a.register(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("APIServices are not as they should be", zap.Error(err))
			wait = retryAfter
		}
		wait = min(wait, a.checkDue(ctx, &wg))
		t := a.cfg.Clock.NewTimer(wait)
		select {
		case <-a.changed:
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// checkDue begins to look at the servers that it is time for, and returns when the next is due.
func (a *Aggregator) checkDue(ctx context.Context, wg *sync.WaitGroup) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	next, now := checkEvery, a.cfg.Clock.Now()
	for name, r := range a.remotes {
		switch left := r.due.Sub(now); {
		case r.busy:
		case left > 0:
			next = min(next, left)
		default:
			r.busy, r.again = true, false
			wg.Go(func() { a.check(ctx, name, r) })
		}
	}
	return next
}

// Touched looks at the servers behind a service again, which has changed.
func (a *Aggregator) Touched(namespace, service string) {
	if len(a.view.Load().remotes) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.remotes {
		if r.spec.Service.Namespace == namespace && r.spec.Service.Name == service {
			r.due, r.again = time.Time{}, true
			a.Poke()
		}
	}
}

// Followed are the services and endpoints behind APIServices: a mirror that only notes that they have changed.
type Followed struct{ Aggregator *Aggregator }

// Set implements what follows objects.
func (f Followed) Set(objects ...kinds.Object) {
	for _, o := range objects {
		name := o.GetName()
		if s, ok := o.(*discoveryv1.EndpointSlice); ok {
			name = s.Labels[discoveryv1.LabelServiceName]
		}
		f.Aggregator.Touched(o.GetNamespace(), name)
	}
}

// Remove implements what follows objects.
func (f Followed) Remove(objects ...kinds.Object) { f.Set(objects...) }

// names are those of all APIServices, in order. The mutex is held.
func (a *Aggregator) names() []string {
	var all []string
	for name := range a.services {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
