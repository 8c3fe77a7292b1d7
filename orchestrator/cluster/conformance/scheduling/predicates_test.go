package scheduling

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func predicates() conformance.Behaviours {
	return conformance.Behaviours{
		"SchedulerPredicates validates resource limits of pods that are allowed to run [Serial]":                                                      fits,
		"SchedulerPredicates validates that NodeSelector is respected if matching [Serial]":                                                           selects,
		"SchedulerPredicates validates that NodeSelector is respected if not matching [Serial]":                                                       selectsNothing,
		"SchedulerPredicates validates that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP [Serial]": portsConflict,
	}
}

// fits fills seven tenths of what is left of each node. Half of a node fits nowhere then.
func fits(t *testing.T, e *conformance.Env) {
	left := map[string]int64{}
	most := int64(0)
	for _, n := range nodes(t, e) {
		left[n.Name] = n.Status.Allocatable.Cpu().MilliValue()
		most = max(most, left[n.Name])
	}
	l, err := e.Client.CoreV1().Pods("").List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, p := range l.Items {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			for _, c := range p.Spec.Containers {
				left[p.Spec.NodeName] -= c.Resources.Requests.Cpu().MilliValue()
			}
		}
	}
	delete(left, "") // pods that are nowhere
	milli := func(n int64) string { return strconv.FormatInt(n, 10) + "m" }
	for node, n := range left {
		label(t, e, node, "node", node)
		run(t, e, pod("filler-"+node, func(s *corev1.PodSpec) {
			requests(s, corev1.ResourceCPU, milli(n*7/10))
			s.NodeSelector = map[string]string{"node": node}
		}))
	}
	for node := range left {
		require.Equal(t, node, conformance.PodRunning(t, e, e.NS, "filler-"+node).Spec.NodeName)
	}
	run(t, e, pod("additional", func(s *corev1.PodSpec) { requests(s, corev1.ResourceCPU, milli(most*5/10)) }))
	waiting(t, e, "additional")
}

func selects(t *testing.T, e *conformance.Env) {
	run(t, e, pod("without-label", nil))
	node := conformance.PodRunning(t, e, e.NS, "without-label").Spec.NodeName
	key := "kubernetes.io/" + e.NS
	label(t, e, node, key, "42")
	run(t, e, pod("with-labels", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{key: "42"} }))
	require.Equal(t, node, conformance.PodRunning(t, e, e.NS, "with-labels").Spec.NodeName)
}

func selectsNothing(t *testing.T, e *conformance.Env) {
	run(t, e, pod("restricted", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"label": "nonempty"} }))
	waiting(t, e, "restricted")
}

func portsConflict(t *testing.T, e *conformance.Env) {
	n := nodes(t, e)[0]
	ip := ""
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			ip = a.Address
		}
	}
	require.NotEmpty(t, ip)
	key := "kubernetes.io/" + e.NS
	label(t, e, n.Name, key, "95")
	server := func(name, hostIP string) *corev1.Pod {
		return pod(name, func(s *corev1.PodSpec) {
			s.NodeSelector = map[string]string{key: "95"}
			s.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 54322, ContainerPort: 8080, Protocol: corev1.ProtocolTCP, HostIP: hostIP}}
		})
	}
	run(t, e, server("everywhere", ""))
	conformance.PodRunning(t, e, e.NS, "everywhere")
	run(t, e, server("one-address", ip))
	waiting(t, e, "one-address")
}
