//go:build linux

package isolation

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// room is a namespace with a server, its service, and two pods that speak.
type room struct {
	t      *testing.T
	ns     string
	server *corev1.Pod
}

func newRoom(t *testing.T) *room {
	r := &room{t: t, ns: cluster.Namespace(t)}
	p := nodetest.Pod("server", "serve", "-http", ":8080")
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}}}
	r.server = cluster.Started(t, r.ns, p)
	for _, name := range []string{"friend", "stranger"} {
		cluster.Started(t, r.ns, nodetest.Pod(name, "sleep", "1h"))
	}
	_, err := cluster.Client.CoreV1().Services(r.ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	return r
}

func (r *room) apply(name, app string, change func(s *networkingv1.NetworkPolicySpec)) {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if app != "" {
		p.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
	}
	change(&p.Spec)
	_, err := cluster.Client.NetworkingV1().NetworkPolicies(r.ns).Create(r.t.Context(), p, metav1.CreateOptions{})
	require.NoError(r.t, err)
}

// expect waits until a command in a pod succeeds, or does not.
func (r *room) expect(works bool, pod string, command ...string) {
	r.t.Helper()
	nodetest.Until(r.t, fmt.Sprintf("%s in %s: %t", strings.Join(command, " "), pod, works), func() (bool, any) {
		out, err := cluster.TryExec(r.t.Context(), r.ns, pod, "main", command...)
		return (err == nil) == works, fmt.Sprint(out, err)
	})
}

func pods(labels map[string]string) []networkingv1.NetworkPolicyPeer {
	return []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: labels}}}
}

// TestPolicies has a server that only a friend may reach, by its address and by its service; a friend that may ask for names and
// reach pods, but nothing of the node; a stranger that may nothing.
func TestPolicies(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	at := fmt.Sprintf("http://%s:8080/", r.server.Status.PodIP)
	agent := cluster.One.Address + ":10250"
	for _, pod := range []string{"friend", "stranger"} {
		r.expect(true, pod, "get", "-timeout", "1s", at)
		r.expect(true, pod, "get", "-timeout", "1s", "http://web/")
	}
	r.expect(true, "friend", "resolve", "web")
	reachesAgent := func(out string, err error) bool {
		return strings.Contains(fmt.Sprint(out, err), "HTTP request to an HTTPS server")
	}
	out, err := cluster.TryExec(t.Context(), r.ns, "friend", "main", "get", "-timeout", "1s", "http://"+agent)
	require.True(t, reachesAgent(out, err), "%s %v", out, err)

	r.apply("server", "server", func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: pods(map[string]string{"app": "friend"}), Ports: []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromString("http"))}}}}
	})
	r.expect(false, "stranger", "get", "-timeout", "1s", at)
	r.expect(false, "stranger", "get", "-timeout", "1s", "http://web/")
	r.expect(true, "stranger", "resolve", "web")
	r.expect(true, "friend", "get", "-timeout", "1s", at)

	udp, tcp := corev1.ProtocolUDP, corev1.ProtocolTCP
	r.apply("friend", "friend", func(s *networkingv1.NetworkPolicySpec) {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		s.Egress = []networkingv1.NetworkPolicyEgressRule{{To: pods(nil)}, {
			To: []networkingv1.NetworkPolicyPeer{{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: metav1.NamespaceSystem}},
				PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
			}},
			Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp, Port: new(intstr.FromInt32(53))}, {Protocol: &tcp, Port: new(intstr.FromInt32(53))}},
		}}
	})
	r.apply("stranger", "stranger", func(s *networkingv1.NetworkPolicySpec) {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	})
	r.expect(false, "stranger", "resolve", "web")
	nodetest.Until(t, "the agent is out of reach", func() (bool, any) {
		out, err := cluster.TryExec(t.Context(), r.ns, "friend", "main", "get", "-timeout", "1s", "http://"+agent)
		return !reachesAgent(out, err), fmt.Sprint(out, err)
	})
	r.expect(true, "friend", "resolve", "web")
	r.expect(true, "friend", "get", "-timeout", "1s", "http://web/")

	// The node reaches its pods: the server was ready all the time.
	now, err := cluster.Client.CoreV1().Pods(r.ns).Get(t.Context(), "server", metav1.GetOptions{})
	require.NoError(t, err)
	require.True(t, nodetest.Ready(now))
	for _, c := range now.Status.Conditions {
		if c.Type == corev1.PodReady {
			require.Equal(t, readySince(r.server), c.LastTransitionTime)
		}
	}
}

func readySince(p *corev1.Pod) metav1.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.LastTransitionTime
		}
	}
	return metav1.Time{}
}

// TestEager has pods that speak as soon as they run. Not one gets through that a policy isolates.
func TestEager(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.expect(true, "friend", "get", "-timeout", "1s", "http://"+r.server.Status.PodIP+":8080/")
	r.apply("deny", "eager", func(s *networkingv1.NetworkPolicySpec) {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
	})
	cluster.Started(t, r.ns, nodetest.Pod("first", "sleep", "1h")) // after it the policy is known
	for i := range 8 {
		p := nodetest.Pod(fmt.Sprint("eager", i), "sh", "-c", "get -timeout 500ms http://"+r.server.Status.PodIP+":8080/ || echo no")
		p.Labels = map[string]string{"app": "eager"}
		require.Equal(t, "no\n", lastLine(cluster.Run(t, r.ns, p)))
	}
	require.NoError(t, cluster.Client.NetworkingV1().NetworkPolicies(r.ns).Delete(context.Background(), "deny", metav1.DeleteOptions{}))
	nodetest.Until(t, "a pod without a policy gets through", func() (bool, any) {
		p := nodetest.Pod("free", "get", "-timeout", "500ms", "http://"+r.server.Status.PodIP+":8080/")
		out := cluster.Run(t, r.ns, p)
		cluster.Delete(t, r.ns, "free")
		return out == "server\n", out
	})
}

func lastLine(s string) string {
	all := strings.SplitAfter(strings.TrimSuffix(s, "\n"), "\n")
	return all[len(all)-1] + "\n"
}
