package instrumentation

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Behaviours{
		"Events API should delete a collection of events":                                     newCollection,
		"Events API should ensure that an event can be fetched, patched, deleted, and listed": newLifecycle,
		"Events should delete a collection of events":                                         coreCollection,
		"Events should manage the lifecycle of an event":                                      coreLifecycle,
	})
}

var seriesTime = metav1.MicroTime{Time: time.Unix(1505828956, 0)}

func labelled(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{"testevent": "true"}}
}

var selected = metav1.ListOptions{LabelSelector: "testevent=true"}

func coreEvent(e *conformance.Env, name string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta: labelled(name), Message: "This is " + name, Reason: "Test", Type: "Normal", Count: 1, InvolvedObject: corev1.ObjectReference{Namespace: e.NS},
	}
}

func newEvent(e *conformance.Env, name string) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: labelled(name), Regarding: corev1.ObjectReference{Namespace: e.NS}, EventTime: seriesTime, Note: "This is " + name,
		Action: "Do", Reason: "Test", Type: "Normal", ReportingController: "test-controller-" + e.NS, ReportingInstance: "test-node",
	}
}

// unversioned takes off what the API server adds.
func unversioned(m *metav1.ObjectMeta) {
	m.ResourceVersion, m.ManagedFields = "", nil
}

func coreLifecycle(t *testing.T, e *conformance.Env) {
	events := e.Client.CoreV1().Events(e.NS)
	listed := func() bool {
		t.Helper()
		l, err := e.Client.CoreV1().Events("").List(e.Ctx, selected)
		require.NoError(t, err)
		return slices.ContainsFunc(l.Items, func(o corev1.Event) bool { return o.Name == "event" && o.Namespace == e.NS })
	}
	_, err := events.Create(e.Ctx, coreEvent(e, "event"), metav1.CreateOptions{})
	require.NoError(t, err)
	require.True(t, listed())
	_, err = events.Patch(e.Ctx, "event", types.StrategicMergePatchType, []byte(`{"message":"patched"}`), metav1.PatchOptions{})
	require.NoError(t, err)
	o, err := events.Get(e.Ctx, "event", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", o.Message)
	o.Series = &corev1.EventSeries{Count: 100, LastObservedTime: seriesTime}
	unversioned(&o.ObjectMeta)
	_, err = events.Update(e.Ctx, o, metav1.UpdateOptions{})
	require.NoError(t, err)
	after, err := events.Get(e.Ctx, "event", metav1.GetOptions{})
	require.NoError(t, err)
	unversioned(&after.ObjectMeta)
	require.True(t, equality.Semantic.DeepEqual(o, after), "%+v is not %+v", after, o)
	require.NoError(t, events.Delete(e.Ctx, "event", metav1.DeleteOptions{}))
	require.False(t, listed())
}

func newLifecycle(t *testing.T, e *conformance.Env) {
	events := e.Client.EventsV1().Events(e.NS)
	listed := func(namespace string) bool {
		t.Helper()
		l, err := e.Client.EventsV1().Events(namespace).List(e.Ctx, selected)
		require.NoError(t, err)
		return slices.ContainsFunc(l.Items, func(o eventsv1.Event) bool { return o.Name == "event" && o.Namespace == e.NS })
	}
	made, err := events.Create(e.Ctx, newEvent(e, "event"), metav1.CreateOptions{})
	require.NoError(t, err)
	require.True(t, listed(""))
	require.True(t, listed(e.NS))
	byFields(t, e)

	o, err := events.Get(e.Ctx, "event", metav1.GetOptions{})
	require.NoError(t, err)
	changed := o.DeepCopy()
	changed.Series = &eventsv1.EventSeries{Count: 2, LastObservedTime: metav1.MicroTime{Time: time.Unix(1505828951, 0)}}
	patch, err := strategicpatch.CreateTwoWayMergePatch(encoded(t, o), encoded(t, changed), eventsv1.Event{})
	require.NoError(t, err)
	_, err = events.Patch(e.Ctx, "event", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
	is := func(want *eventsv1.Event) {
		t.Helper()
		got, err := events.Get(e.Ctx, "event", metav1.GetOptions{})
		require.NoError(t, err)
		n, err := resourceversion.CompareResourceVersion(made.ResourceVersion, got.ResourceVersion)
		require.NoError(t, err)
		require.Negative(t, n)
		unversioned(&got.ObjectMeta)
		unversioned(&want.ObjectMeta)
		require.True(t, equality.Semantic.DeepEqual(want, got), "%+v is not %+v", got, want)
	}
	is(changed)
	changed.Series = &eventsv1.EventSeries{Count: 100, LastObservedTime: seriesTime}
	_, err = events.Update(e.Ctx, changed, metav1.UpdateOptions{})
	require.NoError(t, err)
	is(changed)
	require.NoError(t, events.Delete(e.Ctx, "event", metav1.DeleteOptions{}))
	require.False(t, listed(""))
	require.False(t, listed(e.NS))
}

func encoded(t *testing.T, o any) []byte {
	t.Helper()
	b, err := json.Marshal(o)
	require.NoError(t, err)
	return b
}

// byFields finds the event by who reported it, under both names.
func byFields(t *testing.T, e *conformance.Env) {
	t.Helper()
	core, err := e.Client.CoreV1().Events(e.NS).List(e.Ctx, metav1.ListOptions{FieldSelector: "source=test-controller-" + e.NS})
	require.NoError(t, err)
	require.Len(t, core.Items, 1)
	require.Equal(t, "event", core.Items[0].Name)
	l, err := e.Client.EventsV1().Events(e.NS).List(e.Ctx, metav1.ListOptions{FieldSelector: "reportingController=test-controller-" + e.NS})
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.Equal(t, "event", l.Items[0].Name)
	l, err = e.Client.EventsV1().Events(e.NS).List(e.Ctx, metav1.ListOptions{FieldSelector: "reportingController=other"})
	require.NoError(t, err)
	require.Empty(t, l.Items)
}

// collected makes events and one that is not selected, and deletes the selected ones.
func collected[T any](t *testing.T, e *conformance.Env, create func(name string) error, list func(ctx context.Context, o metav1.ListOptions) ([]T, error), remove func(context.Context, metav1.DeleteOptions, metav1.ListOptions) error) {
	t.Helper()
	for _, name := range []string{"event-1", "event-2", "event-3"} {
		require.NoError(t, create(name))
	}
	l, err := list(e.Ctx, selected)
	require.NoError(t, err)
	require.Len(t, l, 3)
	other := coreEvent(e, "other")
	other.Labels = nil
	_, err = e.Client.CoreV1().Events(e.NS).Create(e.Ctx, other, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, remove(e.Ctx, metav1.DeleteOptions{}, selected))
	l, err = list(e.Ctx, selected)
	require.NoError(t, err)
	require.Empty(t, l)
	_, err = e.Client.CoreV1().Events(e.NS).Get(e.Ctx, "other", metav1.GetOptions{})
	require.NoError(t, err)
}

func coreCollection(t *testing.T, e *conformance.Env) {
	events := e.Client.CoreV1().Events(e.NS)
	collected(t, e, func(name string) error {
		_, err := events.Create(e.Ctx, coreEvent(e, name), metav1.CreateOptions{})
		return err
	}, func(ctx context.Context, o metav1.ListOptions) ([]corev1.Event, error) {
		l, err := events.List(ctx, o)
		return l.Items, err
	}, events.DeleteCollection)
}

func newCollection(t *testing.T, e *conformance.Env) {
	events := e.Client.EventsV1().Events(e.NS)
	collected(t, e, func(name string) error {
		_, err := events.Create(e.Ctx, newEvent(e, name), metav1.CreateOptions{})
		return err
	}, func(ctx context.Context, o metav1.ListOptions) ([]eventsv1.Event, error) {
		l, err := events.List(ctx, o)
		return l.Items, err
	}, events.DeleteCollection)
}
