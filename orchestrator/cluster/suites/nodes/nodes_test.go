//go:build linux

package nodes

import (
	"context"
	"fmt"
	"os"
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

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{
		Nodes: []string{"two"},
		Args:  []string{"--node-monitor-grace-period", "20s", "--node-monitor-period", "1s"},
	}, func(c *nodetest.Cluster) { cluster = c }))
}

// on places a pod on a node.
func on(node string, pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	return pod
}

// server is a pod that serves and never ends by itself.
func server(name string) *corev1.Pod {
	pod := nodetest.Pod(name, "serve", "-http", ":8080", "-udp", ":9001")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return pod
}

// TestBetween lets pods of both nodes speak to each other, under their own addresses.
func TestBetween(t *testing.T) {
	ns := cluster.Namespace(t)
	pods := map[string]*corev1.Pod{}
	for _, node := range []string{"one", "two"} {
		pods[node] = cluster.Started(t, ns, on(node, server("on-"+node)))
	}
	for from, to := range map[string]string{"one": "two", "two": "one"} {
		ask := func(words ...string) string { return cluster.Exec(t, ns, "on-"+from, "main", words...) }
		require.Equal(t, "on-"+to+"\n", ask("get", "http://"+pods[to].Status.PodIP+":8080/"))
		require.True(t, strings.HasPrefix(ask("get", "http://"+pods[to].Status.PodIP+":8080/client"), pods[from].Status.PodIP+":"))
		require.Contains(t, ask("udp", pods[to].Status.PodIP+":9001", "hello"), "on-"+to+" "+pods[from].Status.PodIP+":")
	}
	require.NotEqual(t, pods["one"].Status.HostIP, pods["two"].Status.HostIP)
}

// TestService is one service with a server on each node: both are reached from both nodes, by name, by address and by the port
// of either node from outside.
func TestService(t *testing.T) {
	ns := cluster.Namespace(t)
	service, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"web": "yes"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	for _, node := range []string{"one", "two"} {
		pod := on(node, server("on-"+node))
		pod.Labels["web"] = "yes"
		cluster.Started(t, ns, pod)
	}
	both := func(what string, ask func() (string, error)) {
		t.Helper()
		seen := map[string]bool{}
		nodetest.Until(t, what, func() (bool, any) {
			out, err := ask()
			if err != nil {
				return false, err
			}
			for name := range strings.Lines(out) {
				seen[strings.TrimSpace(name)] = true
			}
			return seen["on-one"] && seen["on-two"], seen
		})
	}
	for _, node := range []string{"one", "two"} {
		for _, host := range []string{"web", service.Spec.ClusterIP} {
			both(host+" from "+node, func() (string, error) {
				return cluster.TryExec(t.Context(), ns, "on-"+node, "main", "get", "-n", "10", "http://"+host+"/")
			})
		}
		address := fmt.Sprintf("%s:%d", cluster.Machine(node).Address, service.Spec.Ports[0].NodePort)
		both("the port of "+node, func() (string, error) {
			return cluster.Outside("get", "-n", "10", "http://"+address+"/")
		})
	}
}

// ids are the containers of a pod with how often each was started again.
func ids(p *corev1.Pod) (all []string) {
	for _, s := range p.Status.ContainerStatuses {
		all = append(all, fmt.Sprint(s.ContainerID, " ", s.RestartCount))
	}
	return all
}

// TestAgentKilled kills the second node's program. Its pods serve on, and are the same when it is back.
func TestAgentKilled(t *testing.T) {
	ns := cluster.Namespace(t)
	far := cluster.Started(t, ns, on("two", server("far")))
	cluster.Started(t, ns, on("one", nodetest.Pod("near", "sleep", "infinity")))
	ask := func() string {
		return cluster.Exec(t, ns, "near", "main", "get", "http://"+far.Status.PodIP+":8080/")
	}
	node := cluster.Node("two")
	require.NoError(t, node.Kill())
	require.Equal(t, "far\n", ask())
	_, err := cluster.TryExec(t.Context(), ns, "far", "main", "hostname")
	require.Error(t, err, "nobody is there to do it")
	require.Equal(t, "far\n", ask())
	require.NoError(t, node.Start())
	require.NoError(t, cluster.Serves("two"))
	nodetest.Until(t, "exec", func() (bool, any) {
		out, err := cluster.TryExec(t.Context(), ns, "far", "main", "hostname")
		return out == "far\n", err
	})
	now := cluster.Await(t, ns, "far", "is ready", nodetest.Ready)
	require.Equal(t, far.Status.PodIP, now.Status.PodIP)
	require.Equal(t, ids(far), ids(now))
	require.Equal(t, "far\n", ask())
}

// TestNodeVanishes cuts the second node off. What a Deployment had there is made anew on the first, and the service leads
// there; what has an identity is not doubled. When the node is back it ends what is not its any more, and takes pods again.
func TestNodeVanishes(t *testing.T) {
	ns := cluster.Namespace(t)
	labels := map[string]string{"app": "web"}
	pod := server("web")
	pod.Spec.Tolerations = atOnce()
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
		Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"two"}}}},
	}}}}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec}
	one := int32(1)
	_, err := cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	single := *template.DeepCopy()
	single.Labels = map[string]string{"app": "single"}
	_, err = cluster.Client.AppsV1().StatefulSets(ns).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "single"},
		Spec:       appsv1.StatefulSetSpec{Replicas: &one, ServiceName: "single", Selector: &metav1.LabelSelector{MatchLabels: single.Labels}, Template: single},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	service, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	first, lone := ready(t, ns, "app=web", "two"), ready(t, ns, "app=single", "two")

	two := cluster.Machine("two")
	require.NoError(t, cluster.SetWire(two, false))
	second := ready(t, ns, "app=web", "one")
	require.NotEqual(t, first.UID, second.UID)
	require.Equal(t, second.Name+"\n", cluster.Run(t, ns, on("one", nodetest.Pod("asks", "get", "-n", "1", "http://"+service.Spec.ClusterIP+"/"))))
	still := cluster.Await(t, ns, lone.Name, "is to go", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	require.Equal(t, lone.UID, still.UID, "it may live on where nobody sees it: there is no second one")

	require.NoError(t, cluster.SetWire(two, true))
	nodetest.Until(t, "the first is gone", func() (bool, any) {
		pods := list(t, ns, "app=web")
		return len(pods) == 1 && pods[0].UID == second.UID, len(pods)
	})
	again := ready(t, ns, "app=single", "")
	require.Equal(t, lone.Name, again.Name)
	require.NotEqual(t, lone.UID, again.UID)
	for _, gone := range []*corev1.Pod{first, lone} {
		require.Empty(t, two.Holds(string(gone.UID)))
	}
	require.Equal(t, "back\n", cluster.Run(t, ns, on("two", nodetest.Pod("back", "hostname"))))
}

func list(t *testing.T, ns, selector string) []corev1.Pod {
	t.Helper()
	all, err := cluster.Client.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	require.NoError(t, err)
	return all.Items
}

// ready waits for a pod that is ready on a node, or on any, and is not to go.
func ready(t *testing.T, ns, selector, node string) (found *corev1.Pod) {
	t.Helper()
	nodetest.Until(t, "a pod "+selector+" on node "+node, func() (bool, any) {
		all := list(t, ns, selector)
		for i := range all {
			if p := &all[i]; (node == "" || p.Spec.NodeName == node) && nodetest.Ready(p) && p.DeletionTimestamp == nil {
				found = p
			}
		}
		return found != nil, all
	})
	return found
}
