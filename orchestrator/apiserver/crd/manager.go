package crd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// retryAfter is how long the Manager waits after a failure of the store.
const retryAfter = time.Second

// Config is what a Manager needs. Objects, Definitions and Serve must be set.
type Config struct {
	Objects     *objectstore.Store
	Definitions *objectstore.Collection // of CustomResourceDefinitions
	Builtin     []*kinds.Kind           // whose names are taken
	Converter   Converter               // nil: objects cannot be converted by webhooks
	// Serve is told which kinds are to be served from now on, by the names of their definitions. It returns when they are.
	// The map is the callee's; kinds that did not change are the same.
	Serve func(map[string][]*kinds.Kind)
	// EstablishDelay is how long a definition is served here before it is said to be established: as long as other API
	// servers may need. Default 0.
	EstablishDelay time.Duration
	Clock          clock.Clock // nil: clock.Real
	Logger         *zap.Logger // nil: none
}

// Manager follows definitions.
type Manager struct {
	cfg   Config
	known map[string]*definition
	table map[string][]*kinds.Kind // that is served, nil: never
	ready chan struct{}            // closed when Serve was first called
	wg    sync.WaitGroup
}

// definition is what is known of a definition.
type definition struct {
	object   *apiextensionsv1.CustomResourceDefinition // shared, never changed
	revision int64

	judged   *apiextensionsv1.CustomResourceDefinition // the object whose conditions are right
	compiled *compiled                                 // nil: not yet, or it cannot be
	of       *apiextensionsv1.CustomResourceDefinition // what was compiled
	kinds    []*kinds.Kind                             // that are served
	since    time.Time                                 // when it was first served
	stop     context.CancelFunc                        // ends its termination, nil: there is none
}

// NewManager returns a Manager. Run it.
func NewManager(cfg Config) *Manager {
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Manager{cfg: cfg, known: map[string]*definition{}, ready: make(chan struct{})}
}

// Ready is closed when all definitions that there were at the beginning are served.
func (m *Manager) Ready() <-chan struct{} { return m.ready }

// Run follows the definitions until the context ends.
func (m *Manager) Run(ctx context.Context) {
	defer m.wg.Wait()
	for {
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("custom resource definitions: begin again", zap.Error(err))
		}
		if !m.sleep(ctx, retryAfter) {
			return
		}
	}
}

func (m *Manager) sleep(ctx context.Context, d time.Duration) bool {
	t := m.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// follow lists the definitions and then watches them, until something fails.
func (m *Manager) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	page, err := m.cfg.Definitions.List(ctx, objectstore.ListQuery{})
	if err != nil {
		cancel()
		return fmt.Errorf("list: %w", err)
	}
	there := map[string]bool{}
	for _, it := range page.Items {
		there[it.Object.GetName()] = true
		m.take(it)
	}
	for name := range m.known {
		if !there[name] {
			m.forget(name)
		}
	}
	stream, err := m.cfg.Definitions.Watch(ctx, objectstore.WatchQuery{ResourceVersion: strconv.FormatInt(page.Revision, 10)})
	if err != nil {
		cancel()
		return fmt.Errorf("watch: %w", err)
	}
	events, failed := make(chan []objectstore.Event), make(chan error, 1)
	var pump sync.WaitGroup
	defer stream.Close()
	defer pump.Wait()
	defer cancel()
	pump.Go(func() {
		for {
			batch, err := stream.Next(ctx)
			if err != nil {
				failed <- err
				return
			}
			select {
			case events <- batch:
			case <-ctx.Done():
			}
		}
	})
	return m.loop(ctx, events, failed)
}

func (m *Manager) loop(ctx context.Context, events <-chan []objectstore.Event, failed <-chan error) error {
	again := m.cfg.Clock.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case batch := <-events:
			for _, e := range batch {
				m.note(e)
			}
		case err := <-failed:
			return fmt.Errorf("watch: %w", err)
		case <-again.C():
		case <-ctx.Done():
			return ctx.Err()
		}
		if wait := m.sync(ctx); wait > 0 {
			again.Reset(wait)
		}
	}
}

func (m *Manager) note(e objectstore.Event) {
	switch {
	case e.Item == nil:
	case e.Type != watch.Deleted:
		m.take(e.Item)
	case m.known[e.Item.Object.GetName()] != nil && m.known[e.Item.Object.GetName()].revision <= e.Revision:
		m.forget(e.Item.Object.GetName())
	}
}

// take notes the state of a definition, unless a newer one is known.
func (m *Manager) take(it *objectstore.Item) {
	c := it.Object.(*apiextensionsv1.CustomResourceDefinition)
	d := m.known[c.Name]
	if d != nil && d.object.UID != c.UID && it.Revision > d.revision {
		m.forget(c.Name)
		d = nil
	}
	if d == nil {
		d = &definition{}
		m.known[c.Name] = d
	}
	if it.Revision > d.revision {
		d.object, d.revision = c, it.Revision
	}
}

func (m *Manager) forget(name string) {
	if d := m.known[name]; d.stop != nil {
		d.stop()
	}
	delete(m.known, name)
}

// sync does what has to be done, and returns when to come again; 0: when something changes.
func (m *Manager) sync(ctx context.Context) time.Duration {
	order := slices.SortedFunc(maps.Values(m.known), func(a, b *definition) int {
		return cmp.Or(a.object.CreationTimestamp.Compare(b.object.CreationTimestamp.Time), cmp.Compare(a.object.Name, b.object.Name))
	})
	var wait time.Duration
	failed := func(d *definition, err error) {
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("custom resource definition", zap.String("name", d.object.Name), zap.Error(err))
			wait = retryAfter
		}
	}
	for _, d := range order {
		failed(d, m.describe(ctx, d))
	}
	m.serve(order)
	for _, d := range order {
		left, err := m.establish(ctx, d)
		failed(d, err)
		if left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
		m.terminate(ctx, d)
	}
	return wait
}
