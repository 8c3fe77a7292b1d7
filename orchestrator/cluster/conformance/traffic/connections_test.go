//go:build linux

package traffic

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func connections() behaviours {
	return behaviours{
		"Networking Granular Checks: Pods should function for intra-pod communication: http":                             spoken(false, "http"),
		"Networking Granular Checks: Pods should function for intra-pod communication: udp":                              spoken(false, "udp"),
		"Networking Granular Checks: Pods should function for node-pod communication: http":                              spoken(true, "http"),
		"Networking Granular Checks: Pods should function for node-pod communication: udp":                               spoken(true, "udp"),
		"HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol": hostPorts,
	}
}

// spoken asks servers from a pod, or from one that has the network of its node.
func spoken(host bool, by string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		from := nodetest.Pod("client", "sleep")
		from.Spec.HostNetwork = host
		from = cluster.Started(t, ns, from)
		if host {
			require.Equal(t, cluster.One.Address, from.Status.PodIP)
		}
		for _, web := range webs(t, ns, 3) {
			if by == "udp" {
				says(t, ns, web.Name+" ", "udp", web.Status.PodIP+":8081", "hello")
			} else {
				require.Equal(t, web.Name+"\n", cluster.Exec(t, ns, "client", "main", "get", "http://"+web.Status.PodIP+":8080/"))
			}
		}
	}
}

func hostPorts(t *testing.T, ns string) {
	const port = 54321
	for _, c := range []struct {
		name, address string
		protocol      corev1.Protocol
		to            int32
	}{
		{"loopback", "127.0.0.1", corev1.ProtocolTCP, 8080},
		{"tcp", cluster.One.Address, corev1.ProtocolTCP, 8080},
		{"udp", cluster.One.Address, corev1.ProtocolUDP, 8081},
	} {
		pod := nodetest.Server(c.name, "-udp", ":8081")
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port, ContainerPort: c.to, Protocol: c.protocol, HostIP: c.address}}
		cluster.Create(t, ns, pod)
	}
	host := nodetest.Pod("client", "sleep")
	host.Spec.HostNetwork = true
	cluster.Started(t, ns, host)
	for _, name := range []string{"loopback", "tcp", "udp"} {
		cluster.Await(t, ns, name, "is ready", nodetest.Ready)
	}
	says(t, ns, "loopback\n", "get", "http://127.0.0.1:54321/")
	says(t, ns, "tcp\n", "get", "http://"+cluster.One.Address+":54321/")
	says(t, ns, "udp ", "udp", cluster.One.Address+":54321", "hello")
}
