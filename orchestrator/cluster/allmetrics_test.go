package cluster_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// TestMetrics finds the metrics of all parts of the process in one place.
func TestMetrics(t *testing.T) {
	c := clustertest.Start(t, clustertest.HollowNodes(1))
	text, err := c.Client(t, nil).Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	require.NoError(t, err)
	for _, name := range []string{
		"process_cpu_seconds_total", "go_goroutines",
		"keelson_objectstore_store_request_seconds_count", "keelson_objectstore_cache_revision", "keelson_objectstore_watches",
		"apiserver_request_total", "apiserver_request_duration_seconds_count", "apiserver_response_sizes_count",
		"apiserver_current_inflight_requests", "apiserver_longrunning_requests", "apiserver_watch_events_total",
		"apiserver_flowcontrol_dispatched_requests_total", "apiserver_flowcontrol_nominal_limit_seats",
		"apiserver_flowcontrol_current_inqueue_requests", "apiserver_flowcontrol_current_executing_requests",
		"apiserver_flowcontrol_request_wait_duration_seconds_count",
	} {
		require.Regexp(t, "(?m)^"+name+"[{ ]", string(text))
	}
}
