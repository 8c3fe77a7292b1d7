//go:build linux

package nodetest_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// TestFacts lets a pod tell where it is.
func TestFacts(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	log := cluster.Run(t, ns, nodetest.Pod("facts", "sh", "-c", "pid; hostname; id; cat /etc/resolv.conf; echo $FROM_IMAGE"))
	lines := strings.Split(log, "\n")
	require.Equal(t, "facts", lines[1], log)
	require.Equal(t, []string{"uid=0 gid=0 groups=[0]", "name=root"}, lines[2:4], log)
	require.Contains(t, log, "search "+ns+".svc.cluster.local")
	require.True(t, strings.HasSuffix(log, "\nyes\n"), log)
}

// TestSteps are the other helpers: commands in a running container, its log, kubectl.
func TestSteps(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := cluster.Started(t, ns, nodetest.Pod("server", "serve", "-http", ":8080"))
	require.Equal(t, "server\n", cluster.Exec(t, ns, "server", "main", "get", "http://"+pod.Status.PodIP+":8080/"))
	_, err := cluster.TryExec(t.Context(), ns, "server", "main", "sh", "-c", "exit 7")
	require.ErrorContains(t, err, "exit code 7")
	require.Equal(t, "pod/server\n", cluster.Kubectl(t, "get", "pods", "-n", ns, "-o", "name"))
	cluster.Delete(t, ns, "server")
}
