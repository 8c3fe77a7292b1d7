//go:build linux

package traffic

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func services() behaviours {
	return behaviours{
		"Services should serve a basic endpoint from pods":                     basic,
		"Services should serve multiport endpoints from pods":                  multiport,
		"Services should serve endpoints on same port and different protocols": protocols,
		"Services should be able to create a functioning NodePort service":     nodePorts,
	}
}

func basic(t *testing.T, ns string) {
	client(t, ns)
	service(t, ns, nil)
	endpoints(t, ns)
	all := webs(t, ns, 2)
	endpoints(t, ns, at(all[0], 8080, "TCP"), at(all[1], 8080, "TCP"))
	answered(t, ns, "http://web/", "web-1", "web-2")
	cluster.Delete(t, ns, "web-1")
	endpoints(t, ns, at(all[1], 8080, "TCP"))
	answered(t, ns, "http://web/", "web-2")
	cluster.Delete(t, ns, "web-2")
	endpoints(t, ns)
}

// named is a server whose port has a name.
func named(name, port string, number int32, args ...string) *corev1.Pod {
	pod := nodetest.Pod(name, append([]string{"serve"}, args...)...)
	pod.Labels = map[string]string{"app": "web"}
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: port, ContainerPort: number}}
	return pod
}

func multiport(t *testing.T, ns string) {
	client(t, ns)
	service(t, ns, func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80, TargetPort: intstr.FromString("first")}, {Name: "b", Port: 81, TargetPort: intstr.FromString("second")}}
	})
	endpoints(t, ns)
	first := cluster.Started(t, ns, named("web-1", "first", 8080, "-http", ":8080"))
	endpoints(t, ns, at(first, 8080, "TCP"))
	second := cluster.Started(t, ns, named("web-2", "second", 8082, "-http", ":8082"))
	endpoints(t, ns, at(first, 8080, "TCP"), at(second, 8082, "TCP"))
	answered(t, ns, "http://web:80/", "web-1")
	answered(t, ns, "http://web:81/", "web-2")
	cluster.Delete(t, ns, "web-1")
	endpoints(t, ns, at(second, 8082, "TCP"))
	cluster.Delete(t, ns, "web-2")
	endpoints(t, ns)
}

func protocols(t *testing.T, ns string) {
	client(t, ns)
	service(t, ns, func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "packets", Protocol: corev1.ProtocolUDP, Port: 80, TargetPort: intstr.FromInt32(8081)})
	})
	all := webs(t, ns, 1)
	endpoints(t, ns, at(all[0], 8080, "TCP"), at(all[0], 8081, "UDP"))
	answered(t, ns, "http://web/", "web-1")
	says(t, ns, "web-1 ", "udp", "web:80", "hello")
}

func nodePorts(t *testing.T, ns string) {
	client(t, ns)
	webs(t, ns, 2)
	s := service(t, ns, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
	answered(t, ns, "http://web/", "web-1", "web-2")
	answered(t, ns, "http://"+s.Spec.ClusterIP+"/", "web-1", "web-2")
	answered(t, ns, nodePort(s), "web-1", "web-2")
}

func affinity() behaviours {
	cluster := func(*corev1.Service) string { return "http://web/" }
	return behaviours{
		"Services should have session affinity work for service with type clusterIP":         sticks(corev1.ServiceTypeClusterIP, cluster),
		"Services should be able to switch session affinity for service with type clusterIP": switches(corev1.ServiceTypeClusterIP, cluster),
		"Services should have session affinity work for NodePort service":                    sticks(corev1.ServiceTypeNodePort, nodePort),
		"Services should be able to switch session affinity for NodePort service":            switches(corev1.ServiceTypeNodePort, nodePort),
	}
}

// one waits until a URL is answered by a single server of several.
func one(t *testing.T, ns, url string) {
	t.Helper()
	nodetest.Until(t, "one server answers", func() (bool, any) {
		who, err := asked(t, ns, url)
		return err == nil && len(who) == 1, who
	})
}

// sticks shows that one client stays with one server.
func sticks(kind corev1.ServiceType, url func(*corev1.Service) string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		client(t, ns)
		webs(t, ns, 3)
		s := service(t, ns, func(s *corev1.Service) { s.Spec.Type, s.Spec.SessionAffinity = kind, corev1.ServiceAffinityClientIP })
		one(t, ns, url(s))
		before, err := asked(t, ns, url(s))
		require.NoError(t, err)
		after, err := asked(t, ns, url(s))
		require.NoError(t, err)
		require.Len(t, before, 1)
		require.Equal(t, before, after)
	}
}

func switches(kind corev1.ServiceType, url func(*corev1.Service) string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		client(t, ns)
		webs(t, ns, 3)
		s := service(t, ns, func(s *corev1.Service) { s.Spec.Type = kind })
		answered(t, ns, url(s), "web-1", "web-2", "web-3")
		changed(t, ns, func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
		one(t, ns, url(s))
		changed(t, ns, func(s *corev1.ServiceSpec) {
			s.SessionAffinity, s.SessionAffinityConfig = corev1.ServiceAffinityNone, nil
		})
		answered(t, ns, url(s), "web-1", "web-2", "web-3")
	}
}

func kinds() behaviours {
	return behaviours{
		"Services should be able to change the type from ClusterIP to ExternalName": leaves(corev1.ServiceTypeClusterIP),
		"Services should be able to change the type from NodePort to ExternalName":  leaves(corev1.ServiceTypeNodePort),
		"Services should be able to change the type from ExternalName to ClusterIP": comes(corev1.ServiceTypeClusterIP),
		"Services should be able to change the type from ExternalName to NodePort":  comes(corev1.ServiceTypeNodePort),
	}
}

// leaves has a service become a name for another one.
func leaves(kind corev1.ServiceType) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		client(t, ns)
		webs(t, ns, 1)
		service(t, ns, func(s *corev1.Service) { s.Spec.Type = kind })
		answered(t, ns, "http://web/", "web-1")
		other := service(t, ns, func(s *corev1.Service) { s.Name = "other" })
		target := "other." + ns + ".svc.cluster.local"
		s := changed(t, ns, func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalName, s.ClusterIP, s.ClusterIPs, s.Ports = corev1.ServiceTypeExternalName, target, "", nil, nil
		})
		require.Empty(t, s.Spec.ClusterIP)
		says(t, ns, "CNAME "+target+".\nA "+other.Spec.ClusterIP+"\n", "dig", "A", "web."+ns+".svc.cluster.local")
		answered(t, ns, "http://web/", "web-1")
	}
}

// comes has a name become a service.
func comes(kind corev1.ServiceType) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		client(t, ns)
		webs(t, ns, 2)
		service(t, ns, func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "foo.example.com"}
		})
		s := changed(t, ns, func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalName, s.Selector = kind, "", map[string]string{"app": "web"}
			s.Ports = []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}}
		})
		require.NotEmpty(t, s.Spec.ClusterIP)
		answered(t, ns, "http://web/", "web-1", "web-2")
		if kind == corev1.ServiceTypeNodePort {
			answered(t, ns, nodePort(s), "web-1", "web-2")
		}
	}
}

func endpointSlices() behaviours {
	return behaviours{
		"EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices": manyAddresses,
		"EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices":        manyPorts,
	}
}

// slice makes a slice of the service by hand.
func slice(t *testing.T, ns, name, portName string, port int32, pods ...*corev1.Pod) {
	t.Helper()
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: "test"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.Status.PodIP}})
	}
	_, err := cluster.Client.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), s, metav1.CreateOptions{})
	require.NoError(t, err)
}

func manyAddresses(t *testing.T, ns string) {
	client(t, ns)
	all := webs(t, ns, 3)
	service(t, ns, func(s *corev1.Service) { s.Spec.Selector = nil })
	slice(t, ns, "first", "http", 8080, all[0], all[1])
	slice(t, ns, "second", "http", 8080, all[2])
	answered(t, ns, "http://web/", "web-1", "web-2", "web-3")
}

func manyPorts(t *testing.T, ns string) {
	client(t, ns)
	one := cluster.Started(t, ns, named("web-1", "first", 8080, "-http", ":8080"))
	two := cluster.Started(t, ns, named("web-2", "second", 8082, "-http", ":8082"))
	service(t, ns, func(s *corev1.Service) {
		s.Spec.Selector = nil
		s.Spec.Ports = []corev1.ServicePort{{Name: "first", Port: 80}, {Name: "second", Port: 81}}
	})
	slice(t, ns, "first", "first", 8080, one)
	slice(t, ns, "second", "second", 8082, two)
	answered(t, ns, "http://web:80/", "web-1")
	answered(t, ns, "http://web:81/", "web-2")
}
