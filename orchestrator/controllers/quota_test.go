package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata/fake"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/controllers/inventory"
)

func amounts(s string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for part := range strings.FieldsSeq(s) {
		k, v, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(k)] = resource.MustParse(v)
	}
	return out
}

func amountsText(l corev1.ResourceList) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(l)) {
		q := l[k]
		parts = append(parts, string(k)+"="+q.String())
	}
	return strings.Join(parts, " ")
}

// quotaWorld has quotas, an inventory of widgets, and the controller.
type quotaWorld struct {
	*world
	metadata *fake.FakeMetadataClient
}

var widgets = inventory.Resource{
	GroupVersionResource: schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}, Kind: "Widget", Namespaced: true,
}

func newQuotaWorld(t *testing.T, tick clock.Clock, objects ...runtime.Object) *quotaWorld {
	scheme := fake.NewTestScheme()
	require.NoError(t, metav1.AddMetaToScheme(scheme))
	scheme.AddKnownTypeWithName(widgets.GroupVersionKind(), &inventory.Object{})
	scheme.AddKnownTypeWithName(widgets.GroupVersion().WithKind("WidgetList"), &metav1.PartialObjectMetadataList{})
	w := &quotaWorld{world: newWorld(t, objects...), metadata: fake.NewSimpleMetadataClient(scheme)}
	for _, name := range []string{"a", "b"} {
		o := &inventory.Object{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
		o.SetGroupVersionKind(widgets.GroupVersionKind())
		require.NoError(t, w.metadata.Tracker().Create(widgets.GroupVersionResource, o, "ns"))
	}
	inv := inventory.New(inventory.Config{Metadata: w.metadata, Clock: clock.Real, Resources: func() ([]inventory.Resource, error) {
		return []inventory.Resource{widgets}, nil
	}})
	c, err := NewResourceQuota(w.client, w.factory, inv, tick, nil)
	require.NoError(t, err)
	w.run(c, inv)
	return w
}

// says waits until the status of the quota q says what is used.
func (w *quotaWorld) says(used string) {
	w.t.Helper()
	eventually(w.t, func() error {
		q, err := w.client.CoreV1().ResourceQuotas("ns").Get(w.ctx, "q", metav1.GetOptions{})
		if err == nil && (amountsText(q.Status.Used) != used || amountsText(q.Status.Hard) != amountsText(q.Spec.Hard)) {
			err = fmt.Errorf("used %s, hard %s", amountsText(q.Status.Used), amountsText(q.Status.Hard))
		}
		return err
	})
}

func quotaOf(hard, statusHard, used string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q", ResourceVersion: "1"}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(hard)},
		Status: corev1.ResourceQuotaStatus{Hard: amounts(statusHard), Used: amounts(used)},
	}
}

func quotaPod(name, namespace, cpu string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: "1"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: amounts("cpu=" + cpu)}}},
	}}
}

// TestQuotaIsCounted has a quota whose status says nothing yet, and objects that come to take less, or go.
func TestQuotaIsCounted(t *testing.T) {
	w := newQuotaWorld(t, clock.Real, quotaOf("pods=5 requests.cpu=4 services.nodeports=2 count/widgets.example.com=9 count/things.example.com=9", "", ""),
		quotaPod("p", "ns", "1"), quotaPod("r", "ns", "500m"), quotaPod("p", "elsewhere", "3"),
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", ResourceVersion: "1"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: make([]corev1.ServicePort, 2)}},
	)
	w.says("count/widgets.example.com=2 pods=2 requests.cpu=1500m services.nodeports=2")

	p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, "p", metav1.GetOptions{})
	require.NoError(t, err)
	p.Status.Phase = corev1.PodSucceeded
	_, err = w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, p, metav1.UpdateOptions{})
	require.NoError(t, err)
	w.says("count/widgets.example.com=2 pods=1 requests.cpu=500m services.nodeports=2")

	s, err := w.client.CoreV1().Services("ns").Get(w.ctx, "s", metav1.GetOptions{})
	require.NoError(t, err)
	s.Spec.Type = corev1.ServiceTypeClusterIP
	_, err = w.client.CoreV1().Services("ns").Update(w.ctx, s, metav1.UpdateOptions{})
	require.NoError(t, err)
	w.says("count/widgets.example.com=2 pods=1 requests.cpu=500m services.nodeports=0")

	require.NoError(t, w.client.CoreV1().Pods("ns").Delete(w.ctx, "r", metav1.DeleteOptions{}))
	require.NoError(t, w.metadata.Tracker().Delete(widgets.GroupVersionResource, "ns", "a"))
	w.says("count/widgets.example.com=1 pods=0 requests.cpu=0 services.nodeports=0")

	q, err := w.client.CoreV1().ResourceQuotas("ns").Get(w.ctx, "q", metav1.GetOptions{})
	require.NoError(t, err)
	q.Spec.Hard = amounts("count/widgets.example.com=2")
	_, err = w.client.CoreV1().ResourceQuotas("ns").Update(w.ctx, q, metav1.UpdateOptions{})
	require.NoError(t, err)
	w.says("count/widgets.example.com=1")
}

// TestQuotaIsCorrected has a status that was right once: objects went while nobody looked.
func TestQuotaIsCorrected(t *testing.T) {
	w := newQuotaWorld(t, clock.Real, quotaOf("pods=5", "pods=5", "pods=4"), quotaPod("p", "ns", "1"))
	w.says("pods=1")
}

// TestQuotaIsCountedAgain has a quota with objects that are seen only after they were counted.
func TestQuotaIsCountedAgain(t *testing.T) {
	w := newQuotaWorld(t, clock.Real, quotaOf("count/widgets.example.com=9 resourcequotas=1", "", ""))
	w.says("count/widgets.example.com=2 resourcequotas=1")
	o := &inventory.Object{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
	o.SetGroupVersionKind(widgets.GroupVersionKind())
	require.NoError(t, w.metadata.Tracker().Create(widgets.GroupVersionResource, o, "ns"))
	w.says("count/widgets.example.com=3 resourcequotas=1")
}

// TestQuotaIsChargedAgain charges a quota for a pod that is counted only later, as admission does, while something else goes.
func TestQuotaIsChargedAgain(t *testing.T) {
	w := newQuotaWorld(t, clock.Real, quotaOf("pods=5", "pods=5", "pods=2"), quotaPod("p", "ns", "1"), quotaPod("r", "ns", "1"))
	w.says("pods=2")
	q, err := w.client.CoreV1().ResourceQuotas("ns").Get(w.ctx, "q", metav1.GetOptions{})
	require.NoError(t, err)
	q.Status.Used = amounts("pods=3")
	_, err = w.client.CoreV1().ResourceQuotas("ns").UpdateStatus(w.ctx, q, metav1.UpdateOptions{})
	require.NoError(t, err)
	w.says("pods=3")
	require.NoError(t, w.client.CoreV1().Pods("ns").Delete(w.ctx, "p", metav1.DeleteOptions{}))
	w.says("pods=1")
	_, err = w.client.CoreV1().Pods("ns").Create(w.ctx, quotaPod("late", "ns", "1"), metav1.CreateOptions{})
	require.NoError(t, err)
	w.says("pods=2")
}

// tickClock has tickers that tick when the test says.
type tickClock struct {
	clock.Clock
	ticks chan time.Time
}

func (c tickClock) NewTicker(time.Duration) clock.Ticker { return c }
func (c tickClock) C() <-chan time.Time                  { return c.ticks }
func (tickClock) Stop()                                  {}
func (tickClock) Reset(time.Duration)                    {}

// TestQuotaIsRecounted looks at all quotas from time to time, also at one that looks right.
func TestQuotaIsRecounted(t *testing.T) {
	c := tickClock{clock.Real, make(chan time.Time)}
	w := newQuotaWorld(t, c, quotaOf("pods=5", "pods=5", "pods=0"))
	w.says("pods=0")
	q, err := w.client.CoreV1().ResourceQuotas("ns").Get(w.ctx, "q", metav1.GetOptions{})
	require.NoError(t, err)
	q.Status.Used = amounts("pods=3") // charged, for pods that did not come to be
	_, err = w.client.CoreV1().ResourceQuotas("ns").UpdateStatus(w.ctx, q, metav1.UpdateOptions{})
	require.NoError(t, err)
	w.says("pods=3")
	eventually(t, func() error {
		select {
		case c.ticks <- time.Now():
		default:
		}
		q, err := w.client.CoreV1().ResourceQuotas("ns").Get(w.ctx, "q", metav1.GetOptions{})
		if err == nil && amountsText(q.Status.Used) != "pods=0" {
			err = fmt.Errorf("used %s", amountsText(q.Status.Used))
		}
		return err
	})
}
