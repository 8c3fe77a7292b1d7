//go:build linux

package containers

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func probes() behaviours {
	file := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "cat /tmp/health && get http://localhost:8080/probed"}}}
	call := corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 9090}}
	tcp := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8081)}}
	web := corev1.ProbeHandler{HTTPGet: httpGet("/healthz")}
	return behaviours{
		"Probing container should be restarted with a exec liveness probe that reads a health file":       kept(file, "", "rm /tmp/health"),
		"Probing container should be restarted with a /healthz http liveness probe":                       kept(web, "", "get http://localhost:8080/fail"),
		"Probing container should be restarted with a GRPC liveness probe":                                kept(call, "", "get http://localhost:8080/fail"),
		"Probing container should *not* be restarted with a exec liveness probe that reads a health file": kept(file, "/probed", ""),
		"Probing container should *not* be restarted with a /healthz http liveness probe":                 kept(web, "/healthz", ""),
		"Probing container should *not* be restarted with a GRPC liveness probe":                          kept(call, "grpc", ""),
		"Probing container should *not* be restarted with a tcp:8080 liveness probe":                      kept(tcp, "tcp", ""),
	}
}

// probe is one that is made every second, and believed at once.
func probe(h corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 20}
}

func httpGet(path string) *corev1.HTTPGetAction {
	return &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(8080)}
}

// kept shows that a container whose liveness probe succeeds is left alone, while the server counts probes as hits of something,
// and that one is restarted that a script has made ill.
func kept(h corev1.ProbeHandler, counted, illness string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		pod := nodetest.Pod("app", "sh", "-c", "touch /tmp/health; serve -http :8080 -tcp :8081 -grpc :9090")
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
		pod.Spec.Containers[0].StartupProbe = probe(corev1.ProbeHandler{HTTPGet: httpGet("/")})
		pod.Spec.Containers[0].StartupProbe.FailureThreshold = 100
		pod.Spec.Containers[0].LivenessProbe = probe(h)
		cluster.Started(t, ns, pod)
		if illness != "" {
			cluster.Exec(t, ns, "app", "main", "sh", "-c", illness)
			got := cluster.Await(t, ns, "app", "is restarted", restarted(1))
			require.NotNil(t, got.Status.ContainerStatuses[0].LastTerminationState.Terminated)
			return
		}
		nodetest.Until(t, "several probes", func() (bool, any) {
			n := cluster.Hits(t, ns, "app", counted)
			return n > 4, n
		})
		got := cluster.Await(t, ns, "app", "is there", func(*corev1.Pod) bool { return true })
		require.Zero(t, got.Status.ContainerStatuses[0].RestartCount)
		require.True(t, nodetest.Ready(got))
	}
}
