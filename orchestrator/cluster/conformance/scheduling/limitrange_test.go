package scheduling

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// resources makes a resource list; what is "" is not in it.
func resources(cpu, memory, storage string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, n := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory, corev1.ResourceEphemeralStorage: storage} {
		if n != "" {
			out[name] = resource.MustParse(n)
		}
	}
	return out
}

func limitRange(name string, labels map[string]string) *corev1.LimitRange {
	return &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, Min: resources("50m", "100Mi", "100Gi"), Max: resources("500m", "500Mi", "500Gi"),
		Default: resources("500m", "500Mi", "500Gi"), DefaultRequest: resources("100m", "200Mi", "200Gi"),
	}}}}
}

func limitDefaults(t *testing.T, e *conformance.Env) {
	ranges, pods := e.Client.CoreV1().LimitRanges(e.NS), e.Client.CoreV1().Pods(e.NS)
	w, err := ranges.Watch(e.Ctx, metav1.ListOptions{LabelSelector: "time=now"})
	require.NoError(t, err)
	defer w.Stop()
	l, err := ranges.Create(e.Ctx, limitRange("limits", map[string]string{"time": "now"}), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, watch.Added, (<-w.ResultChan()).Type)
	l, err = ranges.Get(e.Ctx, l.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.True(t, equality.Semantic.DeepEqual(limitRange("", nil).Spec, l.Spec), "%+v", l.Spec)

	create := func(name string, requests, limits corev1.ResourceList) error {
		_, err := pods.Create(e.Ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "registry.k8s.io/pause:3.10", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
		}}}}, metav1.CreateOptions{})
		return err
	}
	has := func(name string, requests, limits corev1.ResourceList) {
		t.Helper()
		p, err := pods.Get(e.Ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		want := corev1.ResourceRequirements{Requests: requests, Limits: limits}
		require.True(t, equality.Semantic.DeepEqual(want, p.Spec.Containers[0].Resources), "%+v", p.Spec.Containers[0].Resources)
	}
	none := corev1.ResourceList{}
	require.NoError(t, create("none", none, none))
	has("none", resources("100m", "200Mi", "200Gi"), resources("500m", "500Mi", "500Gi"))
	require.NoError(t, create("some", resources("", "150Mi", "150Gi"), resources("300m", "", "")))
	has("some", resources("300m", "150Mi", "150Gi"), resources("300m", "500Mi", "500Gi"))
	little, much := resources("10m", "50Mi", "50Gi"), resources("600m", "600Mi", "600Gi")
	require.True(t, apierrors.IsForbidden(create("little", little, none)))
	require.Error(t, create("much", much, none))

	l.Spec.Limits[0].Min = resources("9m", "49Mi", "49Gi")
	l, err = ranges.Update(e.Ctx, l, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.True(t, equality.Semantic.DeepEqual(resources("9m", "49Mi", "49Gi"), l.Spec.Limits[0].Min), "%v", l.Spec.Limits[0].Min)
	eventually(t, e, func() error { return create("little", little, none) })
	require.Error(t, create("much", much, none))
	require.NoError(t, ranges.Delete(e.Ctx, l.Name, *metav1.NewDeleteOptions(30)))
	all, err := ranges.List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, all.Items)
	eventually(t, e, func() error { return create("much", much, none) })
}

func limitCollection(t *testing.T, e *conformance.Env) {
	labels := map[string]string{"e2e-test": e.NS, e.NS: "created"}
	ranges, everywhere := e.Client.CoreV1().LimitRanges(e.NS), e.Client.CoreV1().LimitRanges("")
	l, err := ranges.Create(e.Ctx, limitRange("limits", labels), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = e.Client.CoreV1().LimitRanges(e.Namespace(t)).Create(e.Ctx, limitRange("limits", labels), metav1.CreateOptions{})
	require.NoError(t, err)
	count := func() int {
		t.Helper()
		all, err := everywhere.List(e.Ctx, metav1.ListOptions{LabelSelector: "e2e-test=" + e.NS})
		require.NoError(t, err)
		return len(all.Items)
	}
	require.Equal(t, 2, count())
	l.Spec.Limits[0].Min = resources("9m", "49Mi", "49Gi")
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{e.NS: "patched"}}, "spec": l.Spec})
	require.NoError(t, err)
	p, err := ranges.Patch(e.Ctx, "limits", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", p.Labels[e.NS])
	require.True(t, equality.Semantic.DeepEqual(l.Spec.Limits[0].Min, p.Spec.Limits[0].Min), "%v", p.Spec.Limits[0].Min)
	n, err := resourceversion.CompareResourceVersion(l.ResourceVersion, p.ResourceVersion)
	require.NoError(t, err)
	require.Negative(t, n)
	patched := metav1.ListOptions{LabelSelector: e.NS + "=patched"}
	require.NoError(t, ranges.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, patched))
	left, err := ranges.List(e.Ctx, patched)
	require.NoError(t, err)
	require.Empty(t, left.Items)
	require.Equal(t, 1, count())
}

// eventually waits until f returns no error: admission may lag behind what is stored.
func eventually(t *testing.T, e *conformance.Env, f func() error) {
	t.Helper()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-e.Ctx.Done():
			require.NoError(t, err)
			return
		}
	}
}
