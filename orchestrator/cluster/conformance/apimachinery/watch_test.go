package apimachinery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

const watchLabel = "watch-this-configmap"

func configMaps(e *conformance.Env) typedcorev1.ConfigMapInterface {
	return e.Client.CoreV1().ConfigMaps(e.NS)
}

// watchMaps watches config maps whose label has one of the values, from a resource version, "" for now.
func watchMaps(t *testing.T, e *conformance.Env, version, values string) watch.Interface {
	t.Helper()
	w, err := configMaps(e).Watch(e.Ctx, metav1.ListOptions{ResourceVersion: version, LabelSelector: fmt.Sprintf("%s in (%s)", watchLabel, values)})
	require.NoError(t, err)
	t.Cleanup(w.Stop)
	return w
}

// next is the next event of a watch.
func next(t *testing.T, e *conformance.Env, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case ev, ok := <-w.ResultChan():
		require.True(t, ok, "the watch ended")
		return ev
	case <-e.Ctx.Done():
		require.Fail(t, "no event")
	}
	return watch.Event{}
}

// await waits for an event among others.
func await(t *testing.T, e *conformance.Env, w watch.Interface, is func(watch.Event) bool) {
	t.Helper()
	for !is(next(t, e, w)) {
	}
}

// sees checks the next event of watches. All that they see is expected: there is none between two expected ones.
func sees(t *testing.T, e *conformance.Env, of watch.EventType, o *corev1.ConfigMap, watches ...watch.Interface) {
	t.Helper()
	for _, w := range watches {
		ev := next(t, e, w)
		require.Equal(t, of, ev.Type, "%v", ev.Object)
		m, ok := ev.Object.(*corev1.ConfigMap)
		require.True(t, ok, "%T", ev.Object)
		if of == watch.Deleted {
			require.Equal(t, o.UID, m.UID)
		} else {
			require.True(t, equality.Semantic.DeepEqual(o, m), "%v is not %v", m, o)
		}
	}
}

func makeMap(t *testing.T, e *conformance.Env, name, value string) *corev1.ConfigMap {
	t.Helper()
	m, err := configMaps(e).Create(e.Ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{watchLabel: value}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return m
}

// mutate changes a config map's data, and its label if value is not "".
func mutate(t *testing.T, e *conformance.Env, m *corev1.ConfigMap, data, value string) *corev1.ConfigMap {
	t.Helper()
	m = m.DeepCopy()
	m.Data = map[string]string{"mutation": data}
	if value != "" {
		m.Labels[watchLabel] = value
	}
	m, err := configMaps(e).Update(e.Ctx, m, metav1.UpdateOptions{})
	require.NoError(t, err)
	return m
}

func removeMap(t *testing.T, e *conformance.Env, m *corev1.ConfigMap) {
	t.Helper()
	require.NoError(t, configMaps(e).Delete(e.Ctx, m.Name, metav1.DeleteOptions{}))
}

func watchSelected(t *testing.T, e *conformance.Env) {
	wa, wb, wab := watchMaps(t, e, "", "a"), watchMaps(t, e, "", "b"), watchMaps(t, e, "", "a, b")
	a := makeMap(t, e, "a", "a")
	sees(t, e, watch.Added, a, wa, wab)
	for _, data := range []string{"1", "2"} {
		a = mutate(t, e, a, data, "")
		sees(t, e, watch.Modified, a, wa, wab)
	}
	removeMap(t, e, a)
	sees(t, e, watch.Deleted, a, wa, wab)
	b := makeMap(t, e, "b", "b")
	sees(t, e, watch.Added, b, wb, wab)
	removeMap(t, e, b)
	sees(t, e, watch.Deleted, b, wb, wab)
	// The first watch has seen nothing of b, and the second nothing of a: what comes next is next.
	c, d := makeMap(t, e, "c", "a"), makeMap(t, e, "d", "b")
	sees(t, e, watch.Added, c, wa, wab)
	sees(t, e, watch.Added, d, wb, wab)
}

func watchFrom(t *testing.T, e *conformance.Env) {
	m := makeMap(t, e, "m", "from")
	first := mutate(t, e, m, "1", "")
	second := mutate(t, e, first, "2", "")
	removeMap(t, e, second)
	w := watchMaps(t, e, first.ResourceVersion, "from")
	sees(t, e, watch.Modified, second, w)
	sees(t, e, watch.Deleted, second, w)
}

func watchAgain(t *testing.T, e *conformance.Env) {
	w := watchMaps(t, e, "", "again")
	m := makeMap(t, e, "m", "again")
	first := mutate(t, e, m, "1", "")
	sees(t, e, watch.Added, m, w)
	last := next(t, e, w)
	require.Equal(t, watch.Modified, last.Type)
	w.Stop()
	second := mutate(t, e, first, "2", "")
	observed, ok := last.Object.(*corev1.ConfigMap)
	require.True(t, ok)
	w = watchMaps(t, e, observed.ResourceVersion, "again")
	removeMap(t, e, second)
	sees(t, e, watch.Modified, second, w)
	sees(t, e, watch.Deleted, second, w)
}

func watchUnselected(t *testing.T, e *conformance.Env) {
	w := watchMaps(t, e, "", "wanted")
	m := makeMap(t, e, "m", "wanted")
	first := mutate(t, e, m, "1", "")
	other := mutate(t, e, first, "1", "unwanted")
	sees(t, e, watch.Added, m, w)
	sees(t, e, watch.Modified, first, w)
	sees(t, e, watch.Deleted, first, w)
	second := mutate(t, e, other, "2", "") // not seen
	restored := mutate(t, e, second, "2", "wanted")
	third := mutate(t, e, restored, "3", "")
	removeMap(t, e, third)
	sees(t, e, watch.Added, restored, w)
	sees(t, e, watch.Modified, third, w)
	sees(t, e, watch.Deleted, third, w)
}

// watchOrder starts a watch at every one of many events, and compares what they see from there.
func watchOrder(t *testing.T, e *conformance.Env) {
	const events = 100
	list, err := configMaps(e).List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	version := list.ResourceVersion
	ctx, cancel := context.WithCancel(e.Ctx)
	var producer sync.WaitGroup
	producer.Go(func() { produce(ctx, t, e) })
	defer producer.Wait()
	defer cancel()
	lw := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return configMaps(e).Watch(ctx, o)
	}}
	var watches []watch.Interface
	seen := func(w watch.Interface) string {
		m, ok := next(t, e, w).Object.(metav1.Object)
		require.True(t, ok)
		return m.GetResourceVersion()
	}
	for range events {
		w, err := watchtools.NewRetryWatcherWithContext(e.Ctx, version, lw)
		require.NoError(t, err)
		defer w.Stop()
		watches = append(watches, w)
		version = seen(watches[0])
		for _, w := range watches[1:] {
			require.Equal(t, version, seen(w))
		}
	}
}

// produce makes, changes and deletes config maps until ctx ends.
func produce(ctx context.Context, t *testing.T, e *conformance.Env) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var names []string
	for i := 0; ; i++ {
		var err error
		victim := rand.IntN(max(1, len(names)))
		switch op := rand.IntN(3); {
		case op == 0 || len(names) == 0:
			name := fmt.Sprint("cm-", i)
			names = append(names, name)
			_, err = configMaps(e).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		case op == 1:
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: names[victim], Labels: map[string]string{"mutated": fmt.Sprint(i)}}}
			_, err = configMaps(e).Update(ctx, m, metav1.UpdateOptions{})
		default:
			err = configMaps(e).Delete(ctx, names[victim], metav1.DeleteOptions{})
			names = append(names[:victim], names[victim+1:]...)
		}
		if ctx.Err() == nil {
			assert.NoError(t, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
