package queues

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"k8s.io/client-go/util/workqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestMetrics has two queues in one registry, and items that come and go in one.
func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](time.Hour, time.Hour)
	one, two := New("one", limiter), New("two", limiter)
	r.MustRegister(one, two)
	defer two.ShutDown()
	defer one.ShutDown()
	one.Add("a")
	one.Add("b")
	one.Add("b") // it waits already
	got, _ := one.Get()
	one.AddRateLimited("c")
	one.Done(got)
	require.Equal(t, map[string]float64{
		"workqueue_depth": 1, "workqueue_adds_total": 2, "workqueue_retries_total": 1, "workqueue_queue_duration_seconds": 1,
		"workqueue_work_duration_seconds": 1, "workqueue_unfinished_work_seconds": 0, "workqueue_longest_running_processor_seconds": 0,
	}, values(t, r, "one"))
	require.Zero(t, values(t, r, "two")["workqueue_adds_total"])
}

// values are the metrics of a queue; of histograms, how many there were.
func values(t *testing.T, r *prometheus.Registry, name string) map[string]float64 {
	families, err := r.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if m.Label[0].GetValue() != name {
				continue
			}
			switch f.GetType() {
			case dto.MetricType_GAUGE:
				out[f.GetName()] = m.GetGauge().GetValue()
			case dto.MetricType_COUNTER:
				out[f.GetName()] = m.GetCounter().GetValue()
			default:
				out[f.GetName()] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return out
}
