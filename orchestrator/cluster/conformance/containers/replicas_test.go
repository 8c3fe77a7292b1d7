//go:build linux

package containers

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func replicas() behaviours {
	return behaviours{
		"ReplicaSet should serve a basic image on each replica with a public image":            replicaSet,
		"ReplicationController should serve a basic image on each replica with a public image": replicationController,
		"Kubectl logs logs should be able to retrieve and filter logs":                         filteredLogs,
	}
}

// template is for servers that say their names.
func template() corev1.PodTemplateSpec {
	pod := nodetest.Server("web")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}
}

func replicaSet(t *testing.T, ns string) {
	_, err := cluster.Client.AppsV1().ReplicaSets(ns).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: template().Labels}, Template: template()},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	eachServes(t, ns)
}

func replicationController(t *testing.T, ns string) {
	_, err := cluster.Client.CoreV1().ReplicationControllers(ns).Create(t.Context(), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](2), Selector: template().Labels, Template: ptr.To(template())},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	eachServes(t, ns)
}

// eachServes waits for two replicas, and has each say its name.
func eachServes(t *testing.T, ns string) {
	t.Helper()
	var all *corev1.PodList
	nodetest.Until(t, "two replicas are ready", func() (bool, any) {
		var err error
		all, err = cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		require.NoError(t, err)
		ready := 0
		for i := range all.Items {
			if nodetest.Ready(&all.Items[i]) {
				ready++
			}
		}
		return ready == 2, len(all.Items)
	})
	require.Len(t, all.Items, 2)
	for _, p := range all.Items {
		b, err := cluster.Client.CoreV1().Pods(ns).ProxyGet("http", p.Name, "8080", "/", nil).DoRaw(t.Context())
		require.NoError(t, err)
		require.Equal(t, p.Name+"\n", string(b))
	}
}

func filteredLogs(t *testing.T, ns string) {
	cluster.Create(t, ns, nodetest.Pod("app", "sh", "-c", "echo first; echo second; echo last; sleep"))
	cluster.Logs(t, ns, "app", "main", "last")
	log := func(flags ...string) string {
		return cluster.Kubectl(t, append([]string{"logs", "app", "-n", ns}, flags...)...)
	}
	require.Equal(t, "first\nsecond\nlast\n", log())
	require.Equal(t, "last\n", log("--tail=1"))
	require.Equal(t, "f", log("--limit-bytes=1"))
	stamp, text, _ := strings.Cut(log("--tail=1", "--timestamps"), " ")
	require.Equal(t, "last\n", text)
	at, err := time.Parse(time.RFC3339Nano, stamp)
	require.NoError(t, err)
	require.Equal(t, "first\nsecond\nlast\n", log("--since=24h"))
	require.Empty(t, log("--since-time="+at.Add(time.Hour).Format(time.RFC3339)))
}
