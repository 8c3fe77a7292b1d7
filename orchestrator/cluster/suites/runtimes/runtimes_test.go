//go:build linux

package runtimes

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

// The machines beside "one", which is made of Keelson's own parts.
const (
	foreignRuntime = "ctr"
	foreignNetwork = "cni"
	ownParts       = "own" // only for measurements
)

func TestMain(m *testing.M) {
	o := nodetest.Options{
		Nodes: []string{foreignRuntime, foreignNetwork},
		Equip: map[string]nodetest.Equipment{foreignRuntime: nodetest.Containerd, foreignNetwork: plugins},
	}
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		o.Nodes = append(o.Nodes, ownParts)
	}
	os.Exit(nodetest.Main(m, o, func(c *nodetest.Cluster) { cluster = c }))
}

// leases is where host-local of a machine keeps who has which address.
func leases(m *nodetest.Machine) string { return filepath.Join(m.Dir, "ipam") }

// plugins is Equipment: a network of the plugins ptp and host-local, as others configure them.
func plugins(_ *nodetest.Cluster, m *nodetest.Machine) ([]string, error) {
	ptp, err := nodetest.Peer("ptp")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(m.Dir, "net.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "others", "plugins": [{"type": "ptp", "ipam": {
  "type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.123.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]
}}]}`, leases(m))
	flags := []string{"--cni-conf-dir", dir, "--cni-bin-dir", filepath.Dir(ptp)}
	return flags, os.WriteFile(filepath.Join(dir, "10-others.conflist"), []byte(conf), 0o644)
}

// on pins a pod to a node.
func on(node string, pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	return pod
}

// deploy makes a Deployment of two servers on a node with a service, and waits until they are ready.
func deploy(t *testing.T, ns, node string) (*corev1.Service, []corev1.Pod) {
	t.Helper()
	labels := map[string]string{"app": "web"}
	pod := on(node, nodetest.Server("web"))
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec}
	two := int32(2)
	_, err := cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	service, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	var pods []corev1.Pod
	nodetest.Until(t, "two servers", func() (bool, any) {
		d, err := cluster.Client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || d.Status.ReadyReplicas != 2 {
			list, _ := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
			return false, list
		}
		list, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		if err == nil {
			pods = list.Items
		}
		return err == nil, err
	})
	return service, pods
}

// reached asks each server by its address, and the service by its own and by its name, from a pod.
func reached(t *testing.T, ns, from string, service *corev1.Service, pods []corev1.Pod) {
	t.Helper()
	want := map[string]string{service.Spec.ClusterIP: "web-", "web." + ns + ".svc.cluster.local": "web-"}
	for _, p := range pods {
		want[p.Status.PodIP+":8080"] = p.Name + "\n"
	}
	for host, who := range want {
		nodetest.Until(t, host+" answers in "+from, func() (bool, any) { // an agent that has just started knows neither pods nor endpoints
			out, err := cluster.TryExec(t.Context(), ns, from, "main", "get", "http://"+host+"/")
			return err == nil && strings.HasPrefix(out, who), fmt.Sprint(out, err)
		})
	}
}

// attached are the sandboxes that Keelson's network of a machine has on record.
func attached(m *nodetest.Machine) []string {
	files, _ := filepath.Glob(filepath.Join(m.Node(), "network", "sandboxes", "*.json")) // the pattern is good
	return files
}

// TestContainerd: pods that a real containerd runs are on Keelson's network, also after the agent was killed and started again.
func TestContainerd(t *testing.T) {
	ns, m := cluster.Namespace(t), cluster.Machine(foreignRuntime)
	node, err := cluster.Client.CoreV1().Nodes().Get(t.Context(), m.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Contains(t, node.Status.NodeInfo.ContainerRuntimeVersion, "containerd://2.")

	service, pods := deploy(t, ns, m.Name)
	for _, p := range pods {
		require.Equal(t, m.Name, p.Spec.NodeName)
		require.True(t, strings.HasPrefix(p.Status.PodIP, strings.TrimSuffix(node.Spec.PodCIDR, "0/24")), "%s is not in %s", p.Status.PodIP, node.Spec.PodCIDR)
	}
	cluster.Started(t, ns, on(m.Name, nodetest.Pod("near", "sleep", "infinity")))
	cluster.Started(t, ns, on(cluster.One.Name, nodetest.Pod("far", "sleep", "infinity")))
	for _, from := range []string{"near", "far"} {
		reached(t, ns, from, service, pods)
	}

	agent := cluster.Node(m.Name)
	require.NoError(t, agent.Kill())
	require.NoError(t, agent.Start())
	require.NoError(t, cluster.Serves(m.Name))
	for _, from := range []string{"near", "far"} {
		reached(t, ns, from, service, pods)
	}
	require.Equal(t, "more\n", cluster.Run(t, ns, on(m.Name, nodetest.Pod("more", "echo", "more"))))

	require.NotEmpty(t, attached(m))
	gone(t, ns)
	nodetest.Until(t, "no sandbox is attached", func() (bool, any) { return len(attached(m)) == 0, attached(m) })
}

// gone deletes a Deployment and all pods of a namespace.
func gone(t *testing.T, ns string) {
	t.Helper()
	require.NoError(t, cluster.Client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}))
	nodetest.Until(t, "no pods", func() (bool, any) {
		_ = cluster.Client.CoreV1().Pods(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}) // tried again
		list, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	})
}

// TestPlugins: the network of pods of the embedded runtime is what other plugins make, with Keelson's services and names on top.
func TestPlugins(t *testing.T) {
	ns, m := cluster.Namespace(t), cluster.Machine(foreignNetwork)
	service, pods := deploy(t, ns, m.Name)
	held := func() []string {
		files, _ := filepath.Glob(filepath.Join(leases(m), "others", "10.123.0.*")) // the pattern is good
		return files
	}
	for _, p := range pods {
		require.True(t, strings.HasPrefix(p.Status.PodIP, "10.123.0."), p.Status.PodIP)
	}
	cluster.Started(t, ns, on(m.Name, nodetest.Pod("near", "sleep", "infinity")))
	reached(t, ns, "near", service, pods)
	require.Len(t, held(), 3)
	require.Empty(t, attached(m))

	agent := cluster.Node(m.Name)
	require.NoError(t, agent.Kill())
	require.NoError(t, agent.Start())
	require.NoError(t, cluster.Serves(m.Name))
	reached(t, ns, "near", service, pods)

	gone(t, ns)
	nodetest.Until(t, "all addresses are given back", func() (bool, any) { return len(held()) == 0, held() })
}

// TestReset: what Keelson put on a machine with a real containerd goes, the pods first, although the agent that containerd's plugin
// asks is not there. Then the machine joins anew.
func TestReset(t *testing.T) {
	ns, m := cluster.Namespace(t), cluster.Machine(foreignRuntime)
	pod := cluster.Started(t, ns, on(m.Name, nodetest.Pod("busy", "sleep", "infinity")))
	agent := cluster.Node(m.Name)
	installed := []string{filepath.Join(m.Dir, "ctr", "net.d", "10-keelson.conflist"), filepath.Join(m.Dir, "ctr", "cni", "keelson-cni")}
	for _, file := range installed {
		require.FileExists(t, file)
	}
	require.NoError(t, agent.Kill())
	_, err := cluster.Keelson(m, "node", "reset", "--data-dir", m.Node(), "--yes")
	require.NoError(t, err)
	for _, file := range installed {
		require.NoFileExists(t, file)
	}
	nodetest.Until(t, "nothing is left", func() (bool, any) { // a shim that was told to end takes a moment
		left := slices.DeleteFunc(m.Left(), func(what string) bool { return strings.Contains(what, filepath.Join(m.Dir, "ctr", "config.toml")) })
		return len(left) == 0, left
	})
	require.NoError(t, agent.Start())
	require.NoError(t, cluster.Serves(m.Name))
	cluster.Delete(t, ns, pod.Name)
	require.Equal(t, "again\n", cluster.Run(t, ns, on(m.Name, nodetest.Pod("again", "echo", "again"))))
}
