package controllers

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an API server of objects in memory, and controllers that run against it.
type world struct {
	t       *testing.T
	client  *fake.Clientset
	factory informers.SharedInformerFactory
	events  *record.FakeRecorder
	ctx     context.Context
	stop    context.CancelFunc
	numbers atomic.Int64
	mu      sync.Mutex // of updates
}

// newWorld starts an API server with objects. As a real one does, it names and numbers what is created, refuses updates that
// were made from another version, keeps the rest of an object when its status is updated and its status when the rest is,
// and counts generations.
func newWorld(t *testing.T, objects ...runtime.Object) *world {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, client: fake.NewClientset(objects...), events: record.NewFakeRecorder(10_000), ctx: ctx, stop: cancel}
	w.client.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if o, ok := a.(clienttesting.CreateAction).GetObject().(metav1.Object); ok {
			w.number(o)
		}
		return false, nil, nil
	})
	w.client.PrependReactor("update", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		o, err := w.update(a.(clienttesting.UpdateAction))
		return true, o, err
	})
	w.factory = informers.NewSharedInformerFactory(w.client, 0)
	t.Cleanup(func() { cancel(); w.factory.Shutdown() })
	return w
}

func (w *world) number(o metav1.Object) {
	id := w.numbers.Add(1)
	o.SetUID(types.UID(fmt.Sprintf("uid-%d", id)))
	o.SetResourceVersion(strconv.FormatInt(id, 10))
	o.SetGeneration(1)
	o.SetCreationTimestamp(metav1.Now())
	if o.GetName() == "" {
		o.SetName(fmt.Sprintf("%s%d", o.GetGenerateName(), id))
	}
}

func (w *world) update(a clienttesting.UpdateAction) (runtime.Object, error) {
	given := a.GetObject().(metav1.Object)
	x, err := w.client.Tracker().Get(a.GetResource(), a.GetNamespace(), given.GetName())
	if err != nil {
		return nil, err
	}
	now := x.(metav1.Object)
	if given.GetResourceVersion() != now.GetResourceVersion() {
		return nil, apierrors.NewConflict(a.GetResource().GroupResource(), given.GetName(), errors.New("the object has been modified"))
	}
	to, from := reflect.ValueOf(a.GetObject().DeepCopyObject()), reflect.ValueOf(x.DeepCopyObject())
	part := func(o reflect.Value, name string) reflect.Value { return o.Elem().FieldByName(name) }
	switch {
	case a.GetSubresource() == "status":
		part(from, "Status").Set(part(to, "Status"))
		to = from
	case part(to, "Status").IsValid():
		part(to, "Status").Set(part(from, "Status"))
		if !equality.Semantic.DeepEqual(part(to, "Spec").Interface(), part(from, "Spec").Interface()) {
			to.Interface().(metav1.Object).SetGeneration(now.GetGeneration() + 1)
		}
	}
	o := to.Interface().(runtime.Object)
	o.(metav1.Object).SetResourceVersion(strconv.FormatInt(w.numbers.Add(1), 10))
	return o, w.client.Tracker().Update(a.GetResource(), o, a.GetNamespace())
}

// run starts controllers; they end with the test.
func (w *world) run(controllers ...Controller) {
	w.t.Helper()
	var wg sync.WaitGroup
	for _, c := range controllers {
		wg.Go(func() { _ = c.Run(w.ctx) })
	}
	w.factory.StartWithContext(w.ctx)
	w.t.Cleanup(func() { w.stop(); wg.Wait() })
}

// start starts a controller on an API server with objects.
func start(t *testing.T, of func(kubernetes.Interface, informers.SharedInformerFactory, record.EventRecorder, clock.Clock, *zap.Logger) (Controller, error), objects ...runtime.Object) *world {
	w := newWorld(t, objects...)
	c, err := of(w.client, w.factory, w.events, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)
	return w
}

// podsAre waits until just these pods are there, as something says what they are.
func (w *world) podsAre(what func(p *corev1.Pod) string, want ...string) {
	w.t.Helper()
	eventually(w.t, func() error {
		var got []string
		for _, p := range w.pods() {
			got = append(got, what(&p))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("%v, not %v", got, want)
		}
		return nil
	})
}

func (w *world) pods() []corev1.Pod {
	l, err := w.client.CoreV1().Pods("ns").List(w.ctx, metav1.ListOptions{})
	require.NoError(w.t, err)
	return l.Items
}

func (w *world) setReady(name string, ready corev1.ConditionStatus) {
	eventually(w.t, func() error {
		p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		p = p.DeepCopy()
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.Now()},
		}}
		_, err = w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, p, metav1.UpdateOptions{})
		return err
	})
}

// eventually waits until f says nothing is wrong.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	require.NoError(t, err)
}
