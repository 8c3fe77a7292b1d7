package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/keelson-io/keelson/orchestrator/controllers/queues"
)

// loop is a work queue of keys ("namespace/name"), and workers.
type loop struct {
	name   string
	lg     *zap.Logger
	queue  *queues.Queue[string]
	synced []cache.InformerSynced
	// sync makes the world what the object with a key says. An error brings the key back.
	sync func(ctx context.Context, key string) error
}

// Delays of keys whose sync failed.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 1000 * time.Second
)

func newLoop(name string, lg *zap.Logger) *loop {
	if lg == nil {
		lg = zap.NewNop()
	}
	return &loop{
		name: name, lg: lg.Named(name),
		queue: queues.New(name, workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)),
	}
}

// Metrics are those of the queue.
func (l *loop) Metrics() []prometheus.Collector { return []prometheus.Collector{l.queue} }

// run works until ctx ends. It begins when all informers have seen everything that there was.
func (l *loop) run(ctx context.Context, workers int) error {
	if !cache.WaitForCacheSync(ctx.Done(), l.synced...) {
		l.queue.ShutDown()
		return ctx.Err()
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	wg.Wait()
	return nil
}

func (l *loop) next(ctx context.Context) bool {
	key, quit := l.queue.Get()
	if quit {
		return false
	}
	defer l.queue.Done(key)
	err := l.sync(ctx, key)
	switch {
	case err == nil:
		l.queue.Forget(key)
	case ctx.Err() != nil:
	default:
		l.lg.Debug("will be tried again", zap.String("key", key), zap.Error(err))
		l.queue.AddRateLimited(key)
	}
	return true
}

// add queues an object.
func (l *loop) add(o any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
		l.queue.Add(key)
	}
}

// after queues an object for later.
func (l *loop) after(o metav1.Object, d time.Duration) { l.queue.AddAfter(keyOf(o), d) }

func keyOf(o metav1.Object) string {
	if o.GetNamespace() == "" {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

// objects makes handlers of a function that is called with every object that came, changed or went.
func objects[T any](f func(o T)) cache.ResourceEventHandler {
	call := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if t, ok := o.(T); ok {
			f(t)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: call, DeleteFunc: call,
		UpdateFunc: func(old, o any) { call(o) },
	}
}

// watch calls handlers for what an informer sees.
func (l *loop) watch(i cache.SharedIndexInformer, h cache.ResourceEventHandler) error {
	r, err := i.AddEventHandler(h)
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	l.synced = append(l.synced, r.HasSynced)
	return nil
}

// Controller is a control loop.
type Controller interface {
	// Run works until ctx ends. The informers are started by the caller.
	Run(ctx context.Context) error
}

// Measured is a Controller that has metrics.
type Measured interface {
	Controller
	Metrics() []prometheus.Collector
}
