package controllers

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
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
}

// newWorld starts an API server with objects. It names and numbers what is created, and keeps the rest of an object when its
// status is updated, as a real one does.
func newWorld(t *testing.T, objects ...runtime.Object) *world {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, client: fake.NewClientset(objects...), events: record.NewFakeRecorder(10_000), ctx: ctx, stop: cancel}
	var n atomic.Int64
	w.client.PrependReactor("create", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		o, ok := a.(clienttesting.CreateAction).GetObject().(metav1.Object)
		if ok && o.GetUID() == "" {
			id := n.Add(1)
			o.SetUID(types.UID(fmt.Sprintf("uid-%d", id)))
			o.SetCreationTimestamp(metav1.Now())
			if o.GetName() == "" {
				o.SetName(fmt.Sprintf("%s%d", o.GetGenerateName(), id))
			}
		}
		return false, nil, nil
	})
	w.client.PrependReactor("update", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "status" {
			return false, nil, nil
		}
		o := a.(clienttesting.UpdateAction).GetObject()
		now, err := w.client.Tracker().Get(a.GetResource(), a.GetNamespace(), o.(metav1.Object).GetName())
		if err != nil {
			return true, nil, err
		}
		now = now.DeepCopyObject()
		reflect.ValueOf(now).Elem().FieldByName("Status").Set(reflect.ValueOf(o).Elem().FieldByName("Status"))
		return true, now, w.client.Tracker().Update(a.GetResource(), now, a.GetNamespace())
	})
	w.factory = informers.NewSharedInformerFactory(w.client, 0)
	t.Cleanup(func() { cancel(); w.factory.Shutdown() })
	return w
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
