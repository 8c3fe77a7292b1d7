package cluster_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// TestQueuesAreMeasured reads what the controllers of a cluster count.
func TestQueuesAreMeasured(t *testing.T) {
	c := clustertest.Start(t)
	c.Namespace(t)
	b, err := c.Client(t, nil).Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	require.NoError(t, err)
	for _, queue := range []string{"deployment", "garbage-delete", "resource-quota", "resource-quota-urgent", "serviceaccount"} {
		require.Regexp(t, `(?m)^workqueue_depth\{name="`+queue+`"\} \d`, string(b))
	}
	require.Regexp(t, `(?m)^workqueue_adds_total\{name="serviceaccount"\} [1-9]`, string(b))
	require.Regexp(t, `(?m)^workqueue_work_duration_seconds_count\{name="serviceaccount"\} [1-9]`, string(b))
}
