//go:build linux

package traffic

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func names() behaviours {
	return behaviours{
		"DNS should provide DNS for the cluster":                         clusterNames,
		"DNS should provide DNS for services":                            serviceNames,
		"DNS should resolve DNS of partial qualified names for services": partialNames,
		"DNS should provide DNS for ExternalName services":               externalNames,
		"DNS should provide DNS for pods for Hostname":                   hostNames,
		"DNS should provide DNS for pods for Subdomain":                  subdomains,
		"DNS should provide /etc/hosts entries for the cluster":          hostsFile,
		"DNS should support configurable pod DNS nameservers":            nameservers,
	}
}

func clusterNames(t *testing.T, ns string) {
	client(t, ns)
	api, err := cluster.Client.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	require.NoError(t, err)
	for _, name := range []string{"kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"} {
		says(t, ns, api.Spec.ClusterIP+"\n", "resolve", name)
	}
}

// headless makes a service without an address, for the servers.
func headless(t *testing.T, ns, name string) {
	t.Helper()
	service(t, ns, func(s *corev1.Service) { s.Name, s.Spec.ClusterIP = name, corev1.ClusterIPNone })
}

func serviceNames(t *testing.T, ns string) {
	client(t, ns)
	pod := webs(t, ns, 1)[0]
	web := service(t, ns, nil).Spec.ClusterIP
	headless(t, ns, "headless")
	zone := "." + ns + ".svc.cluster.local"
	says(t, ns, "A "+web+"\n", "dig", "A", "web"+zone)
	says(t, ns, "SRV 0 100 80 web"+zone+".\n", "dig", "SRV", "_http._tcp.web"+zone)
	says(t, ns, "PTR web"+zone+".\n", "dig", "PTR", web)
	says(t, ns, "A "+pod.Status.PodIP+"\n", "dig", "A", "headless"+zone)
	says(t, ns, ".headless"+zone+".\n", "dig", "SRV", "_http._tcp.headless"+zone)
	says(t, ns, ".headless"+zone+".\n", "dig", "PTR", pod.Status.PodIP)
}

func partialNames(t *testing.T, ns string) {
	client(t, ns)
	web := service(t, ns, nil).Spec.ClusterIP
	for _, name := range []string{"web", "web." + ns, "web." + ns + ".svc", "web." + ns + ".svc.cluster.local"} {
		says(t, ns, web+"\n", "resolve", name)
	}
}

func externalNames(t *testing.T, ns string) {
	client(t, ns)
	name := "web." + ns + ".svc.cluster.local"
	service(t, ns, func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "foo.example.com"}
	})
	says(t, ns, "CNAME foo.example.com.\n", "dig", "CNAME", name)
	changed(t, ns, func(s *corev1.ServiceSpec) { s.ExternalName = "bar.example.com" })
	says(t, ns, "CNAME bar.example.com.\n", "dig", "CNAME", name)
	s := changed(t, ns, func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName, s.Ports = corev1.ServiceTypeClusterIP, "", []corev1.ServicePort{{Port: 80}}
	})
	says(t, ns, "A "+s.Spec.ClusterIP+"\n", "dig", "A", name)
}

// host starts a server with a name of its own below a headless service.
func host(t *testing.T, ns, name, service string) *corev1.Pod {
	t.Helper()
	pod := nodetest.Server("web-1")
	pod.Labels = map[string]string{"app": "web"}
	pod.Spec.Hostname, pod.Spec.Subdomain = name, service
	return cluster.Started(t, ns, pod)
}

func hostNames(t *testing.T, ns string) {
	client(t, ns)
	headless(t, ns, "headless")
	pod := host(t, ns, "querier", "headless")
	says(t, ns, pod.Status.PodIP+"\n", "resolve", "querier.headless."+ns+".svc.cluster.local")
	require.Equal(t, "querier\n", cluster.Exec(t, ns, "web-1", "main", "hostname"))
}

func subdomains(t *testing.T, ns string) {
	client(t, ns)
	headless(t, ns, "headless")
	pod := host(t, ns, "querier", "headless")
	says(t, ns, "A "+pod.Status.PodIP+"\n", "dig", "A", "headless."+ns+".svc.cluster.local")
}

func hostsFile(t *testing.T, ns string) {
	headless(t, ns, "headless")
	pod := host(t, ns, "querier", "headless")
	full := "querier.headless." + ns + ".svc.cluster.local"
	require.Contains(t, lines(cluster.Exec(t, ns, "web-1", "main", "cat", "/etc/hosts")), pod.Status.PodIP+"\t"+full+"\tquerier")
	for _, name := range []string{full, "querier"} {
		require.Equal(t, pod.Status.PodIP+"\n", cluster.Exec(t, ns, "web-1", "main", "resolve", name))
	}
}

func nameservers(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "cat", "/etc/resolv.conf")
	pod.Spec.DNSPolicy = corev1.DNSNone
	pod.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"resolv.conf.local"}}
	require.ElementsMatch(t, []string{"nameserver 1.1.1.1", "search resolv.conf.local"}, lines(cluster.Run(t, ns, pod)))
}
