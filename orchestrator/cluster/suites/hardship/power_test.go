//go:build linux

package hardship

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// leaves lets a pod leave at once a node that nobody hears of.
func leaves(pod *corev1.Pod) *corev1.Pod {
	for _, key := range []string{corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady} {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64),
		})
	}
	return pod
}

// prefers would rather have a pod on a node, but not on those that other tests need.
func prefers(node string, pod *corev1.Pod) *corev1.Pod {
	named := func(op corev1.NodeSelectorOperator, names ...string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: op, Values: names}}}
	}
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution:  &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{named(corev1.NodeSelectorOpNotIn, "disk", "memory")}},
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 100, Preference: named(corev1.NodeSelectorOpIn, node)}},
	}}
	return pod
}

// replica waits for the only pod of an app that is ready on a node and not to go.
func replica(t *testing.T, ns, app, node string) (found corev1.Pod) {
	t.Helper()
	nodetest.Until(t, app+" runs on "+node, func() (bool, any) {
		all, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(all.Items, func(p corev1.Pod) bool {
			return nodetest.Ready(&p) && p.DeletionTimestamp == nil && p.Spec.NodeName == node
		})
		if i >= 0 {
			found = all.Items[i]
		}
		return i >= 0, all.Items
	})
	return found
}

// TestPower takes the power from a node. What may leave it is made anew elsewhere. When the node is back it is another start of the
// machine: pods that are still its own begin again, with what they had on its disk; those that are not are cleared away.
func TestPower(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	web := prefers("power", leaves(nodetest.Server("web")))
	web.Spec.RestartPolicy = corev1.RestartPolicyAlways
	_, err := cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: web.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web.Labels}, Spec: web.Spec},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	// This one stays, as pods of a DaemonSet do.
	faithful := on("power", scratch(nodetest.Pod("faithful", "sh", "-c", "echo run >> /scratch/runs; echo lost > /lost; exec serve -http :8080"), ""))
	faithful.Spec.RestartPolicy = corev1.RestartPolicyAlways
	faithful.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	faithful = cluster.Started(t, ns, faithful)
	once := on("power", nodetest.Pod("once", "sleep", "infinity"))
	once.Spec.Tolerations = faithful.Spec.Tolerations
	cluster.Started(t, ns, once)
	first := replica(t, ns, "web", "power")
	before := nodeIs(t, "power", "is there", func(*corev1.Node) bool { return true })

	require.NoError(t, cluster.PowerOff("power"))
	require.Empty(t, cluster.Machine("power").Left())
	second := replica(t, ns, "web", "one")
	require.NotEqual(t, first.UID, second.UID)
	nodeIs(t, "power", "is not heard of", func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown
		})
	})

	require.NoError(t, cluster.PowerOn("power"))
	nodeIs(t, "power", "is another start of the machine, and ready", func(n *corev1.Node) bool {
		return n.Status.NodeInfo.BootID != before.Status.NodeInfo.BootID && len(n.Spec.Taints) == 0 &&
			slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			})
	})
	told(t, "default", "power", "Rebooted")
	require.NoError(t, cluster.Serves("power"))
	again := cluster.Await(t, ns, "faithful", "begins again", func(p *corev1.Pod) bool {
		return nodetest.Ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	require.Equal(t, faithful.UID, again.UID)
	require.Equal(t, "run\nrun\n", cluster.Exec(t, ns, "faithful", "main", "cat", "/scratch/runs"), "its volume lives as long as the pod")
	require.Equal(t, "faithful\n", cluster.Run(t, ns, on("one", nodetest.Pod("asks", "get", "http://"+again.Status.PodIP+":8080/"))))
	lost := cluster.Await(t, ns, "once", "has failed", nodetest.Ended)
	require.Equal(t, corev1.PodFailed, lost.Status.Phase)
	require.EqualValues(t, 137, lost.Status.ContainerStatuses[0].State.Terminated.ExitCode, "%+v", lost.Status)

	nodetest.Until(t, "the first is gone", func() (bool, any) {
		all, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
		left := cluster.Machine("power").Holds(string(first.UID))
		return err == nil && len(all.Items) == 1 && len(left) == 0, []any{len(all.Items), left}
	})
	require.Equal(t, "back\n", cluster.Run(t, ns, on("power", nodetest.Pod("back", "echo", "back"))))
}
