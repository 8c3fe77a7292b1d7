//go:build linux

package containers

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func hooks() behaviours {
	exec := func(address string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"get", "http://" + address + ":8080/hook"}}}
	}
	get := func(address string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Host: address, Port: intstr.FromInt32(8080), Path: "/hook"}}
	}
	return behaviours{
		"Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly": hooked(exec, nil),
		"Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart http hook properly": hooked(get, nil),
		"Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly":   hooked(nil, exec),
		"Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http hook properly":   hooked(nil, get),
	}
}

// hooked shows that a hook, which asks a server, is called once at its time.
func hooked(start, stop func(address string) *corev1.LifecycleHandler) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		at := cluster.Started(t, ns, nodetest.Server("server")).Status.PodIP
		pod := nodetest.Pod("app", "sleep")
		grace := int64(30)
		pod.Spec.TerminationGracePeriodSeconds = &grace
		life := &corev1.Lifecycle{}
		want := 0
		if start != nil {
			life.PostStart, want = start(at), 1
		}
		if stop != nil {
			life.PreStop = stop(at)
		}
		pod.Spec.Containers[0].Lifecycle = life
		cluster.Started(t, ns, pod)
		require.Equal(t, want, cluster.Hits(t, ns, "server", "/hook"))
		cluster.Delete(t, ns, "app")
		require.Equal(t, 1, cluster.Hits(t, ns, "server", "/hook"))
	}
}

// preStop shows that the hook ends before its container is asked to: the hook asks the container.
func preStop(t *testing.T, ns string) {
	at := cluster.Started(t, ns, nodetest.Server("server")).Status.PodIP
	pod := nodetest.Server("tester")
	grace := int64(30)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	pod.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{
		"sh", "-c", "sleep 1; get http://localhost:8080/alive && get http://" + at + ":8080/prestop",
	}}}}
	cluster.Started(t, ns, pod)
	require.Zero(t, cluster.Hits(t, ns, "server", "/prestop"))
	cluster.Delete(t, ns, "tester")
	require.Equal(t, 1, cluster.Hits(t, ns, "server", "/prestop"))
}
