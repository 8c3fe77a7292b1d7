package workers

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// values are the metrics of the workers as name{label=value,...}: counters and gauges by value, histograms by count.
func (h *harness) values() map[string]float64 {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(h.ws.Metrics()...)
	families, err := r.Gather()
	require.NoError(h.t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, _ int) behaviour {
			return map[string]behaviour{"i": {run: 2 * time.Second}, "bad": {start: errors.New("no such file")}}[name]
		}
		p := makePod("i:i", "a", "b")
		h.api.create(p)
		bad := makePod("bad")
		bad.Name, bad.UID = "q", "uid-q"
		h.api.create(bad)
		h.pass(5 * time.Second)
		v := h.values()
		for name, want := range map[string]float64{
			"kubelet_started_pods_total{}":                                                             2,
			"kubelet_started_pods_errors_total{}":                                                      0,
			"kubelet_started_containers_total{container_type=init_container}":                          1,
			"kubelet_started_containers_total{container_type=container}":                               3,
			"kubelet_started_containers_errors_total{code=RunContainerError,container_type=container}": 1,
			"kubelet_running_pods{}":                                                                   2,
			"kubelet_running_containers{container_state=running}":                                      2,
			"kubelet_running_containers{container_state=exited}":                                       2,
			"kubelet_desired_pods{static=}":                                                            2,
			"kubelet_desired_pods{static=true}":                                                        0,
			"kubelet_active_pods{static=}":                                                             2,
			"kubelet_mirror_pods{}":                                                                    0,
			"kubelet_pod_start_duration_seconds{}":                                                     2, // the phase of one whose only container failed is Running, too
			"kubelet_pod_start_total_duration_seconds{}":                                               0, // nobody knows when it was made
			"kubelet_pod_worker_duration_seconds{operation_type=create}":                               2,
			"kubelet_orphaned_runtime_pods_total{}":                                                    0,
		} {
			got, there := v[name]
			require.True(t, there || want == 0, name)
			require.Equal(t, want, got, name)
		}
		require.NotZero(t, v["kubelet_pleg_relist_duration_seconds{}"])
		require.NotZero(t, v["kubelet_pod_worker_duration_seconds{operation_type=update}"])
		require.Zero(t, v["kubelet_pod_worker_duration_seconds{operation_type=kill}"])

		h.restart()
		require.Zero(t, h.values()["kubelet_pod_start_duration_seconds{}"], "a pod that ran before does not start again")
		h.api.force("p")
		h.pass(time.Minute)
		v = h.values()
		require.NotZero(t, v["kubelet_pod_worker_duration_seconds{operation_type=kill}"])
		require.EqualValues(t, 1, v["kubelet_desired_pods{static=}"])
	})
}

func TestRecursiveReadOnly(t *testing.T) {
	in(t, func(h *harness) {
		h.node.Status.RuntimeHandlers = []corev1.NodeRuntimeHandler{
			{Name: "", Features: &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: ptr.To(true)}}, {Name: "other"},
		}
		p := makePod("a")
		require.True(t, h.ws.RecursiveReadOnly(p))
		h.node.Status.RuntimeHandlers[0].Features = nil
		require.False(t, h.ws.RecursiveReadOnly(p))
		h.node.Status.RuntimeHandlers = nil
		require.False(t, h.ws.RecursiveReadOnly(p))
	})
}
