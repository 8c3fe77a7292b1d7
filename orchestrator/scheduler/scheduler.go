package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/scheduler/cache"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/core"
	"github.com/keelson-io/keelson/orchestrator/scheduler/extender"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/queue"
)

const (
	// maxWrites bounds the requests to the API server that are under way.
	maxWrites = 64
	// maxUnschedulable is how long a pod waits for an event before it is tried all the same.
	maxUnschedulable = 5 * time.Minute
)

// Config is what a scheduler needs. Client, Informers and Plugin must be given.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// Configuration is that of config.Default if nil.
	Configuration *config.Configuration
	// Plugin makes plugins.
	Plugin     core.Factory
	Clock      clock.Clock
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// model is what the goroutine of Run owns.
type model struct {
	queue    *queue.Queue
	cache    *cache.Cache
	snapshot *framework.Snapshot
	core     *core.Core
	cluster  *cluster
	// binding ends the binding of a pod that is under way.
	binding map[types.UID]context.CancelFunc
}

// Scheduler places pods on nodes.
type Scheduler struct {
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	profiles  map[string]*core.Profile
	clock     clock.Clock
	log       *zap.Logger
	metrics   *metrics
	model     model
	mail      *mailbox
	statuses  *statusWriter
	waiting   *waiting
	// writes has a place for every request that may be under way.
	writes    chan struct{}
	recorders map[string]events.EventRecorder
	wg        sync.WaitGroup
}

// New makes a scheduler.
func New(c Config) (*Scheduler, error) {
	if c.Configuration == nil {
		c.Configuration = config.Default()
	}
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	extenders, err := extender.New(c.Configuration)
	if err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	profiles, err := core.NewProfiles(c.Configuration, c.Plugin, extenders)
	if err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	s := &Scheduler{
		client: c.Client, informers: c.Informers, profiles: profiles, clock: c.Clock, log: c.Logger,
		metrics: newMetrics(c.Registerer), mail: newMailbox(), waiting: newWaiting(c.Clock), writes: make(chan struct{}, maxWrites),
		recorders: map[string]events.EventRecorder{},
	}
	s.statuses = newStatusWriter(s)
	cl := newCluster()
	s.model = model{
		queue: newQueue(c.Configuration, profiles, s.metrics), cache: cache.New(), snapshot: framework.NewSnapshot(cl), cluster: cl, binding: map[types.UID]context.CancelFunc{},
		core: core.New(core.Options{Random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), Clock: c.Clock, Observe: s.metrics.extensionPoint}),
	}
	return s, nil
}

func newQueue(c *config.Configuration, profiles map[string]*core.Profile, m *metrics) *queue.Queue {
	o := queue.Options{
		Profiles: map[string]queue.Profile{}, MaxUnschedulable: maxUnschedulable, Moved: m.moved,
		InitialBackoff: time.Duration(*c.PodInitialBackoffSeconds) * time.Second,
		MaxBackoff:     time.Duration(*c.PodMaxBackoffSeconds) * time.Second,
	}
	for name, p := range profiles {
		o.Less = p.Less
		o.Profiles[name] = queue.Profile{PreEnqueue: p.PreEnqueue(), Hints: p.Hints()}
	}
	return queue.New(o)
}

// Run places pods until ctx is done, and waits for the writes under way.
func (s *Scheduler) Run(ctx context.Context) error {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: s.client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("scheduler: start recording events: %w", err)
	}
	for name := range s.profiles {
		s.recorders[name] = broadcaster.NewRecorder(scheme.Scheme, name)
	}
	defer s.wg.Wait()
	unwatch, err := s.watch(ctx)
	defer unwatch()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("scheduler: %w", err)
	}
	s.log.Info("scheduler is running", zap.Int("profiles", len(s.profiles)))
	s.loop(ctx)
	return nil
}

// loop does what comes by mail, and places one pod after another.
func (s *Scheduler) loop(ctx context.Context) {
	timer := s.clock.NewTimer(time.Hour)
	defer timer.Stop()
	var spare []func()
	var flush, measured time.Time
	for ctx.Err() == nil {
		letters := s.mail.take(spare)
		for i, f := range letters {
			f()
			letters[i] = nil
		}
		spare = letters
		now := s.clock.Now()
		if len(letters) > 0 || !flush.After(now) {
			flush = s.model.queue.Flush(ctx, now)
		}
		if pod := s.model.queue.Pop(now); pod != nil {
			if now.Sub(measured) > time.Second {
				measured = now
				s.measure()
			}
			s.attempt(ctx, pod)
			flush = time.Time{}
			continue
		}
		s.measure()
		wait := time.Hour
		if !flush.IsZero() {
			wait = max(flush.Sub(now), time.Millisecond)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-s.mail.bell:
		case <-timer.C():
		}
	}
}

// write runs f in the background when its turn comes.
func (s *Scheduler) write(f func()) {
	s.wg.Go(func() {
		s.writes <- struct{}{}
		defer func() { <-s.writes }()
		f()
	})
}
