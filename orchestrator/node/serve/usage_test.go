package serve_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metrics "k8s.io/metrics/pkg/client/clientset/versioned"

	"github.com/keelson-io/keelson/orchestrator/node/serve"
)

// usage are the metrics of a node that is half busy.
type usage struct {
	namespace func() string
	begun     time.Time
}

func (u *usage) Describe(chan<- *prometheus.Desc) {}

func (u *usage) Collect(to chan<- prometheus.Metric) {
	used := time.Since(u.begun).Seconds() / 2
	put := func(name string, t prometheus.ValueType, v float64, labels ...string) {
		var names []string
		if len(labels) > 0 {
			names = []string{"namespace", "pod", "container"}
		}
		to <- prometheus.NewMetricWithTimestamp(time.Now(), prometheus.MustNewConstMetric(prometheus.NewDesc(name, name, names, nil), t, v, labels...))
	}
	put("node_cpu_usage_seconds_total", prometheus.CounterValue, used)
	put("node_memory_working_set_bytes", prometheus.GaugeValue, 64<<20)
	put("container_cpu_usage_seconds_total", prometheus.CounterValue, used/2, u.namespace(), "p", "a")
	put("container_memory_working_set_bytes", prometheus.GaugeValue, 32<<20, u.namespace(), "p", "a")
}

// What a node tells of its usage becomes that of metrics.k8s.io.
func TestUsage(t *testing.T) {
	var w *world
	registry := prometheus.NewRegistry()
	ns := make(chan string, 1)
	var known string
	registry.MustRegister(&usage{begun: time.Now(), namespace: func() string {
		if known == "" {
			known = <-ns
		}
		return known
	}})
	w = start(t, "used", func(c *serve.Config) { c.Metrics.Resource = registry })
	ns <- w.namespace
	pod, err := w.client.CoreV1().Pods(w.namespace).Get(t.Context(), "p", metav1.GetOptions{})
	require.NoError(t, err)
	pod.Labels = map[string]string{"app": "x"}
	pod, err = w.client.CoreV1().Pods(w.namespace).Update(t.Context(), pod, metav1.UpdateOptions{})
	require.NoError(t, err)
	pod.Status.Phase = corev1.PodRunning
	_, err = w.client.CoreV1().Pods(w.namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	require.NoError(t, err)

	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		config := *shared.Config
		config.ContentType, config.AcceptContentTypes = media, media
		c, err := metrics.NewForConfig(&config)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			m, err := c.MetricsV1beta1().NodeMetricses().Get(t.Context(), "used", metav1.GetOptions{})
			return err == nil && m.Usage.Memory().Value() == 64<<20 && m.Usage.Cpu().MilliValue() > 400 && m.Usage.Cpu().MilliValue() < 600 && m.Window.Duration > 0
		}, time.Minute, 10*time.Millisecond)
		list, err := c.MetricsV1beta1().NodeMetricses().List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
		require.Len(t, list.Items, 1, "hollow nodes are not known")
		pods, err := c.MetricsV1beta1().PodMetricses("").List(t.Context(), metav1.ListOptions{LabelSelector: "app=x"})
		require.NoError(t, err)
		require.Len(t, pods.Items, 1)
		require.Equal(t, "x", pods.Items[0].Labels["app"])
		require.Equal(t, "a", pods.Items[0].Containers[0].Name)
		require.EqualValues(t, 32<<20, pods.Items[0].Containers[0].Usage.Memory().Value())
		pods, err = c.MetricsV1beta1().PodMetricses(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=y"})
		require.NoError(t, err)
		require.Empty(t, pods.Items)
		_, err = c.MetricsV1beta1().PodMetricses(w.namespace).Get(t.Context(), "none", metav1.GetOptions{})
		require.True(t, apierrors.IsNotFound(err))
		require.ErrorContains(t, err, `pods.metrics.k8s.io "none" not found`)
	}

	table := &metav1.Table{}
	err = w.client.RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").
		Do(t.Context()).Into(table)
	require.NoError(t, err)
	require.Equal(t, "CPU", table.ColumnDefinitions[1].Name)
	require.Equal(t, "used", table.Rows[0].Cells[0])
	require.Equal(t, "64Mi", table.Rows[0].Cells[2])

	groups, resources, err := w.client.Discovery().ServerGroupsAndResources()
	require.NoError(t, err)
	found := false
	for _, g := range groups {
		found = found || g.Name == "metrics.k8s.io"
	}
	require.True(t, found)
	for _, r := range resources {
		if r.GroupVersion == "metrics.k8s.io/v1beta1" {
			require.Equal(t, "[nodes pods]", fmt.Sprint([]string{r.APIResources[0].Name, r.APIResources[1].Name}))
		}
	}
	err = w.client.RESTClient().Delete().AbsPath("/apis/metrics.k8s.io/v1beta1/nodes/used").Do(t.Context()).Error()
	require.True(t, apierrors.IsMethodNotSupported(err), "%v", err)
	b, err := w.client.RESTClient().Get().AbsPath("/openapi/v3/apis/metrics.k8s.io/v1beta1").DoRaw(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(b), "NodeMetricsList")
	b, err = w.client.RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io").DoRaw(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(b), `"reason":"Local"`)
	require.NotContains(t, string(b), "automanaged")
}
