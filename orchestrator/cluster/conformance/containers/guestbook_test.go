//go:build linux

package containers

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func applications() behaviours {
	return behaviours{
		"Kubectl client Guestbook application should create and stop a working application": guestbook,
	}
}

// guestbook creates an application with kubectl, uses it by way of its front end, and deletes it.
func guestbook(t *testing.T, ns string) {
	file := filepath.Join(nodetest.Repository(t), "orchestrator/cluster/conformance/containers/testdata/guestbook.yaml")
	require.Contains(t, cluster.Kubectl(t, "create", "-n", ns, "-f", file), "deployment.apps/replica created\n")
	cluster.Kubectl(t, "wait", "-n", ns, "deployments", "--all", "--for=condition=Available", "--timeout=3m")

	ask := func(cmd, key, value string) (string, error) {
		b, err := cluster.Client.CoreV1().Services(ns).ProxyGet("http", "front", "80", "guestbook", map[string]string{"cmd": cmd, "key": key, "value": value}).DoRaw(t.Context())
		return string(b), err
	}
	says := func(cmd, key, value, want string) {
		nodetest.Until(t, cmd+" "+key+" says "+want, func() (bool, any) {
			got, err := ask(cmd, key, value)
			return err == nil && got == want, []any{got, err}
		})
	}
	says("get", "messages", "", "")
	says("set", "messages", "first", "")
	says("set", "messages", "second", "")
	says("set", "others", "third", "")
	says("get", "messages", "", "second")
	says("get", "others", "", "third")

	replicas, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "part=replica"})
	require.NoError(t, err)
	require.Len(t, replicas.Items, 2)
	for _, p := range replicas.Items {
		nodetest.Until(t, p.Name+" has followed the leader", func() (bool, any) { return value(t, &p) == "second", nil })
		_, err := cluster.Client.CoreV1().Pods(ns).ProxyGet("http", p.Name, "6379", "set", map[string]string{"key": "messages", "value": "wrong"}).DoRaw(t.Context())
		require.Error(t, err, "only the leader makes entries")
	}

	cluster.Kubectl(t, "delete", "-n", ns, "-f", file, "--timeout=3m")
	nodetest.Until(t, "nothing is left of it", func() (bool, any) {
		left := cluster.Kubectl(t, "get", "-n", ns, "deployments,replicasets,pods,services,endpointslices", "-l", "app=guestbook", "-o", "name")
		return left == "", left
	})
	_, err = ask("get", "messages", "")
	require.Error(t, err)
}

// value is what a replica says itself.
func value(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	b, err := cluster.Client.CoreV1().Pods(pod.Namespace).ProxyGet("http", pod.Name, "6379", "get", map[string]string{"key": "messages"}).DoRaw(t.Context())
	require.NoError(t, err)
	return string(b)
}
