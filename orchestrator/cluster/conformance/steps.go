package conformance

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
)

// pollInterval is between two looks at what is awaited.
const pollInterval = 50 * time.Millisecond

// Until gets something again and again until it is as awaited, and returns it. An error of get ends the test.
func Until[T any](t testing.TB, e *Env, what string, get func() (T, error), is func(T) bool) T {
	t.Helper()
	var last T
	err := wait.PollUntilContextCancel(e.Ctx, pollInterval, true, func(context.Context) (bool, error) {
		var err error
		last, err = get()
		return err == nil && is(last), err
	})
	require.NoError(t, err, "awaiting that %s; last: %+v", what, last)
	return last
}

// Eventually waits until something is so.
func Eventually(t testing.TB, e *Env, what string, is func() (bool, error)) {
	t.Helper()
	Until(t, e, what, is, func(yes bool) bool { return yes })
}

// Outlive is the same environment for what cleans up, after the test's context has ended.
func (e *Env) Outlive() *Env {
	after := *e
	after.Ctx = context.WithoutCancel(e.Ctx)
	return &after
}

// Updater changes objects of a kind.
type Updater[T any] interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (T, error)
	Update(ctx context.Context, x T, o metav1.UpdateOptions) (T, error)
}

// Update changes an object, again when somebody else has changed it at the same time.
func Update[T any](t testing.TB, e *Env, c Updater[T], name string, change func(T)) T {
	t.Helper()
	return update(t, e, c, name, change, c.Update)
}

// StatusUpdater changes the status of objects of a kind.
type StatusUpdater[T any] interface {
	Updater[T]
	UpdateStatus(ctx context.Context, x T, o metav1.UpdateOptions) (T, error)
}

// UpdateStatus changes an object's status, again when somebody else has changed the object at the same time.
func UpdateStatus[T any](t testing.TB, e *Env, c StatusUpdater[T], name string, change func(T)) T {
	t.Helper()
	return update(t, e, c, name, change, c.UpdateStatus)
}

func update[T any](t testing.TB, e *Env, c Updater[T], name string, change func(T), write func(context.Context, T, metav1.UpdateOptions) (T, error)) (out T) {
	t.Helper()
	err := retry.RetryOnConflict(wait.Backoff{Duration: 10 * time.Millisecond, Factor: 1.5, Steps: 20}, func() error {
		x, err := c.Get(e.Ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(x)
		out, err = write(e.Ctx, x, metav1.UpdateOptions{})
		return err
	})
	require.NoError(t, err)
	return out
}

// Watch is a watch of objects of one type.
type Watch[T any] struct {
	t  testing.TB
	e  *Env
	in watch.Interface
}

// Observe starts a watch that ends with the test. start is the method Watch of a client.
func Observe[T any](t testing.TB, e *Env, start func(context.Context, metav1.ListOptions) (watch.Interface, error), o metav1.ListOptions) *Watch[T] {
	t.Helper()
	in, err := start(e.Ctx, o)
	require.NoError(t, err)
	t.Cleanup(in.Stop)
	return &Watch[T]{t: t, e: e, in: in}
}

// Next returns the next event's object, which is to be of a type.
func (w *Watch[T]) Next(typ watch.EventType) T {
	w.t.Helper()
	ev := w.event(string(typ))
	require.Equal(w.t, typ, ev.Type, "%+v", ev.Object)
	return w.object(ev)
}

// Until reads events up to one of a type, whose object is as awaited; is may be nil.
func (w *Watch[T]) Until(typ watch.EventType, what string, is func(T) bool) T {
	w.t.Helper()
	for {
		ev := w.event(what)
		if ev.Type != typ {
			continue
		}
		if x := w.object(ev); is == nil || is(x) {
			return x
		}
	}
}

func (w *Watch[T]) event(what string) watch.Event {
	w.t.Helper()
	select {
	case ev, ok := <-w.in.ResultChan():
		require.True(w.t, ok, "the watch ended, awaiting: %s", what)
		require.NotEqual(w.t, watch.Error, ev.Type, "awaiting: %s: %+v", what, ev.Object)
		return ev
	case <-w.e.Ctx.Done():
		require.FailNow(w.t, "no event", "awaiting: %s", what)
		panic("unreachable")
	}
}

func (w *Watch[T]) object(ev watch.Event) T {
	w.t.Helper()
	x, ok := ev.Object.(T)
	require.True(w.t, ok, "%T", ev.Object)
	return x
}

// Newer requires that an object is a later state of another.
func Newer(t testing.TB, after, before metav1.Object) {
	t.Helper()
	require.Greater(t, Revision(t, after), Revision(t, before), after.GetName())
}

// Revision is an object's resource version, which is to be a number above 0.
func Revision(t testing.TB, o metav1.Object) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	require.NoError(t, err)
	require.NotZero(t, n)
	return n
}

// PodsRunning waits until there are just as many pods of a selector as there are to be, all running and ready.
func PodsRunning(t testing.TB, e *Env, selector string, count int) []corev1.Pod {
	t.Helper()
	return Until(t, e, fmt.Sprintf("%d pods of %q run", count, selector), func() ([]corev1.Pod, error) {
		l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return nil, err
		}
		return l.Items, nil
	}, func(pods []corev1.Pod) bool {
		for i := range pods {
			if !PodReady(&pods[i]) {
				return false
			}
		}
		return len(pods) == count
	})
}

// PodRunning waits until a pod runs and is ready.
func PodRunning(t testing.TB, e *Env, ns, name string) *corev1.Pod {
	t.Helper()
	return Until(t, e, "pod "+name+" runs", func() (*corev1.Pod, error) {
		return e.Client.CoreV1().Pods(ns).Get(e.Ctx, name, metav1.GetOptions{})
	}, PodReady)
}

// PodReady tells whether a pod runs, is ready and is to stay.
func PodReady(p *corev1.Pod) bool {
	if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
		return false
	}
	c := PodCondition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// PodCondition is a pod's condition of a type, nil if it has none.
func PodCondition(p *corev1.Pod, typ corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == typ {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}
