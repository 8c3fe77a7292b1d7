//go:build linux

package containers

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// A port of the machine leads to a pod, from outside of the cluster, and is given back with the pod.
func TestHostPort(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := with(nodetest.Pod("ported", "serve", "-http", ":8080", "-udp", ":9001"), func(c *corev1.Container) {
		c.Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 18080}, {ContainerPort: 9001, HostPort: 19001, Protocol: corev1.ProtocolUDP}}
	})
	cluster.Started(t, ns, pod)
	url := "http://" + cluster.One.Address + ":18080/"
	nodetest.Until(t, "an answer", func() (bool, any) {
		out, err := cluster.Outside("get", url)
		return err == nil && out == "ported\n", out
	})
	out, err := cluster.Outside("udp", cluster.One.Address+":19001", "hello")
	require.NoError(t, err, out)
	require.Regexp(t, `^ported 192\.0\.2\.1:\d+ hello\n$`, out)
	cluster.Delete(t, ns, "ported")
	_, err = cluster.Outside("get", "-timeout", "500ms", url)
	require.Error(t, err)
}

// A pod of a file is there without the API server, which is shown it.
func TestStaticPod(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("static", "serve", "-http", ":8080")
	pod.TypeMeta, pod.Namespace = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ns
	pod.Spec.AutomountServiceAccountToken = ptr(false)
	text, err := yaml.Marshal(pod)
	require.NoError(t, err)
	file := filepath.Join(cluster.One.Manifests(), "static.yaml")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	seen := cluster.Await(t, ns, "static-one", "is ready", func(p *corev1.Pod) bool { return nodetest.Ready(p) })
	require.Contains(t, seen.Annotations, "kubernetes.io/config.mirror")
	require.Equal(t, "static-one\n", cluster.Exec(t, ns, "static-one", "main", "get", "http://"+seen.Status.PodIP+":8080/"))
	// The mirror is only shown: the pod goes on if it is deleted, and is shown again.
	require.NoError(t, cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "static-one", metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}))
	again := cluster.Await(t, ns, "static-one", "is shown again", func(p *corev1.Pod) bool { return p.UID != seen.UID && nodetest.Ready(p) })
	require.Equal(t, status(seen, "main").ContainerID, status(again, "main").ContainerID)
	require.NoError(t, os.Remove(file))
	nodetest.Until(t, "the pod is gone", func() (bool, any) {
		all, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil && len(all.Items) == 0, all
	})
}

// Names are those that the pod's policy says.
func TestNames(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	_, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "family"},
		Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": "member"}, Ports: []corev1.ServicePort{{Port: 8080}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	member := nodetest.Pod("member", "serve", "-http", ":8080")
	member.Spec.Hostname, member.Spec.Subdomain = "elder", "family"
	served := cluster.Started(t, ns, member)
	asks := cluster.Started(t, ns, nodetest.Pod("asks", "sleep", "infinity"))
	for _, name := range []string{"family", "elder.family", "elder.family." + ns + ".svc.cluster.local"} {
		nodetest.Until(t, name, func() (bool, any) {
			out, err := cluster.TryExec(t.Context(), ns, asks.Name, "main", "resolve", name)
			return err == nil && out == served.Status.PodIP+"\n", err
		})
	}
	require.Equal(t, "elder.family."+ns+".svc.cluster.local\n", cluster.Exec(t, ns, "member", "main", "sh", "-c", "grep elder /etc/hosts | { read ip fqdn rest; echo $fqdn; }"))

	own := nodetest.Pod("own", "cat", "/etc/resolv.conf")
	own.Spec.DNSPolicy = corev1.DNSNone
	own.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr("2")}}}
	require.Equal(t, "search example.org\nnameserver 192.0.2.53\noptions ndots:2\n", cluster.Run(t, ns, own))

	hosts := nodetest.Pod("hosts", "cat", "/etc/hosts")
	hosts.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.77", Hostnames: []string{"a.example", "b.example"}}}
	require.Regexp(t, `192\.0\.2\.77\s+a\.example\s+b\.example`, cluster.Run(t, ns, hosts))
}
