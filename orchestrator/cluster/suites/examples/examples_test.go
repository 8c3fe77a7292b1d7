//go:build linux

package examples

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// apply applies a file of examples, and takes its objects away when the test ends.
func apply(t *testing.T, ns, name string) {
	t.Helper()
	cluster.Kubectl(t, "apply", "-n", ns, "-f", filepath.Join(nodetest.Repository(t), "examples", name))
}

// TestAll fails for an example that no test applies.
func TestAll(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(nodetest.Repository(t), "examples", "*.yaml"))
	require.NoError(t, err)
	source, err := os.ReadFile("examples_test.go")
	require.NoError(t, err)
	for _, f := range files {
		require.Contains(t, string(source), `, "`+filepath.Base(f)+`")`)
	}
}

// get asks for a page from a place. Those who make a request in a pod do it with nodetest's tools.
func get(t *testing.T, from *testkit.NetNS, address string) (string, error) {
	t.Helper()
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return nodetest.Dial(ctx, from, network, address)
	}}}
	a, err := c.Get("http://" + address + "/")
	if err != nil {
		return "", err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", a.Status, b)
	}
	return string(b), err
}

// answers waits until a page is there.
func answers(t *testing.T, from *testkit.NetNS, address, page string) {
	t.Helper()
	nodetest.Until(t, address, func() (bool, any) {
		text, err := get(t, from, address)
		return err == nil && strings.Contains(text, page), fmt.Sprint(text, err)
	})
}

// TestServices are the examples with servers, whose image is built first.
func TestServices(t *testing.T) {
	cluster.Build(t, cluster.One, "./examples/web", "web:1")
	t.Run("web", func(t *testing.T) {
		t.Parallel()
		ns := cluster.Namespace(t)
		apply(t, ns, "web.yaml")
		cluster.Kubectl(t, "rollout", "status", "-n", ns, "deployment/web", "--timeout=2m")
		answers(t, cluster.Wire, cluster.One.Address+":30080", "hello from Keelson")
		answers(t, cluster.One.NetNS, cluster.Kubectl(t, "get", "service", "-n", ns, "web", "-o", "jsonpath={.spec.clusterIP}")+":80", "hello from Keelson")
		client := nodetest.Pod("client", "sleep", "1000")
		friend := nodetest.Pod("friend", "sleep", "1000")
		friend.Labels = map[string]string{"access": "web"}
		cluster.Started(t, ns, client)
		cluster.Started(t, ns, friend)
		require.Contains(t, cluster.Exec(t, ns, "client", "main", "get", "http://web/"), "hello from Keelson")

		apply(t, ns, "networkpolicy.yaml")
		nodetest.Until(t, "the policy holds", func() (bool, any) {
			text, err := cluster.TryExec(t.Context(), ns, "client", "main", "get", "http://web/")
			return err != nil, text
		})
		require.Contains(t, cluster.Exec(t, ns, "friend", "main", "get", "http://web/"), "hello from Keelson")
		cluster.Delete(t, ns, "client")
		cluster.Delete(t, ns, "friend")
	})
	t.Run("statefulset", func(t *testing.T) {
		t.Parallel()
		ns := cluster.Namespace(t)
		apply(t, ns, "statefulset.yaml")
		cluster.Kubectl(t, "rollout", "status", "-n", ns, "statefulset/counter", "--timeout=2m")
		client := nodetest.Pod("client", "sleep", "1000")
		cluster.Started(t, ns, client)
		for _, name := range []string{"counter-0", "counter-1"} {
			require.Equal(t, name+": counted\n", cluster.Exec(t, ns, "client", "main", "get", "http://"+name+".counter:8080/"))
		}
		bound := cluster.Kubectl(t, "get", "pvc", "-n", ns, "-o", "jsonpath={.items[*].status.phase} {.items[*].status.capacity.storage}")
		require.Equal(t, "Bound Bound 32Mi 32Mi", bound)
		cluster.Delete(t, ns, "client")
	})
	t.Run("daemonset", func(t *testing.T) {
		t.Parallel()
		ns := cluster.Namespace(t)
		apply(t, ns, "daemonset.yaml")
		cluster.Kubectl(t, "rollout", "status", "-n", ns, "daemonset/each", "--timeout=2m")
		answers(t, cluster.Wire, cluster.One.Address+":8080", "on every node")
	})
	t.Run("job", func(t *testing.T) {
		t.Parallel()
		ns := cluster.Namespace(t)
		apply(t, ns, "job.yaml")
		cluster.Kubectl(t, "wait", "-n", ns, "--for=condition=Complete", "job/pieces", "--timeout=2m")
		pieces := regexp.MustCompile(`piece \d`).FindAllString(cluster.Kubectl(t, "logs", "-n", ns, "-l", "batch.kubernetes.io/job-name=pieces", "--max-log-requests=10"), -1)
		require.ElementsMatch(t, []string{"piece 0", "piece 1", "piece 2", "piece 3"}, pieces)
		require.Contains(t, cluster.Kubectl(t, "get", "cronjob", "-n", ns, "minutes"), "* * * * *")
	})
}
