//go:build linux

package containers

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// probe is one that runs every second.
func probe(handler corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: handler, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5}
}

func command(words ...string) corev1.ProbeHandler {
	return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: words}}
}

func health() corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}
}

// told waits for an event about a pod.
func told(t *testing.T, ns, pod, reason string) {
	t.Helper()
	nodetest.Until(t, "event "+reason, func() (bool, any) {
		events, err := cluster.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == reason }), events.Items
	})
}

// A container that does not live is started again, in the same pod under the same address.
func TestLiveness(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := script("lives", "touch /tmp/alive; sleep infinity")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	with(pod, func(c *corev1.Container) {
		c.LivenessProbe = probe(command("stat", "/tmp/alive"))
		c.LivenessProbe.InitialDelaySeconds = 1
	})
	first := cluster.Started(t, ns, pod)
	cluster.Exec(t, ns, "lives", "main", "rm", "/tmp/alive")
	again := cluster.Await(t, ns, "lives", "runs again", func(p *corev1.Pod) bool {
		s := status(p, "main")
		return s.RestartCount > 0 && s.State.Running != nil
	})
	require.Equal(t, first.Status.PodIP, again.Status.PodIP)
	require.NotNil(t, status(again, "main").LastTerminationState.Terminated)
	told(t, ns, "lives", "Unhealthy")
	told(t, ns, "lives", "Killing")
}

// A container that is not ready gets no traffic: its pod leaves the endpoints of its service, and comes back.
func TestReadiness(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	_, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "gated"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	pod := cluster.Started(t, ns, with(nodetest.Pod("gated", "serve", "-http", ":8080"), func(c *corev1.Container) { c.ReadinessProbe = probe(health()) }))
	endpoint := func(ready bool) {
		t.Helper()
		nodetest.Until(t, "the endpoint", func() (bool, any) {
			all, err := cluster.Client.DiscoveryV1().EndpointSlices(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
			if err != nil || len(all.Items) == 0 || len(all.Items[0].Endpoints) == 0 {
				return false, err
			}
			e := all.Items[0].Endpoints[0]
			return e.Addresses[0] == pod.Status.PodIP && e.Conditions.Ready != nil && *e.Conditions.Ready == ready, e
		})
	}
	endpoint(true)
	cluster.Exec(t, ns, "gated", "main", "get", "http://127.0.0.1:8080/fail")
	unready := cluster.Await(t, ns, "gated", "is not ready", func(p *corev1.Pod) bool { return !nodetest.Ready(p) })
	require.EqualValues(t, 0, status(unready, "main").RestartCount)
	endpoint(false)
	cluster.Exec(t, ns, "gated", "main", "get", "http://127.0.0.1:8080/heal")
	cluster.Await(t, ns, "gated", "is ready again", nodetest.Ready)
	endpoint(true)
}

// As long as a container starts, it is not asked whether it lives.
func TestStartup(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("slow", "serve", "-http", ":8080", "-delay", "3s")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	with(pod, func(c *corev1.Container) {
		c.LivenessProbe, c.StartupProbe = probe(health()), probe(health())
		c.StartupProbe.FailureThreshold = 60
	})
	cluster.Create(t, ns, pod)
	seen := cluster.Await(t, ns, "slow", "runs", func(p *corev1.Pod) bool { return status(p, "main").State.Running != nil })
	require.False(t, *status(seen, "main").Started)
	ready := cluster.Await(t, ns, "slow", "is ready", nodetest.Ready)
	require.EqualValues(t, 0, status(ready, "main").RestartCount)
	require.True(t, *status(ready, "main").Started)
}

// A container that never starts is killed and started again.
func TestStartupFails(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("never", "sleep", "infinity")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	with(pod, func(c *corev1.Container) { c.StartupProbe = probe(command("false")) })
	cluster.Create(t, ns, pod)
	seen := cluster.Await(t, ns, "never", "was started again", func(p *corev1.Pod) bool { return status(p, "main").RestartCount > 0 })
	require.False(t, nodetest.Ready(seen))
}

// The other ways to ask: TCP, and HTTP of which only the first line counts.
func TestProbeKinds(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("kinds", "serve", "-http", ":8080", "-tcp", ":9000")
	pod.Spec.Containers = append(pod.Spec.Containers, nodetest.Container("refused", "sleep", "infinity"))
	pod.Spec.Containers[0].ReadinessProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(9000)}})
	pod.Spec.Containers[1].ReadinessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/status?code=500", Port: intstr.FromInt32(8080)}})
	cluster.Create(t, ns, pod)
	cluster.Await(t, ns, "kinds", "one is ready", func(p *corev1.Pod) bool { return status(p, "main").Ready })
	told(t, ns, "kinds", "Unhealthy")
	seen := cluster.Await(t, ns, "kinds", "is there", func(*corev1.Pod) bool { return true })
	require.False(t, status(seen, "refused").Ready)
}
