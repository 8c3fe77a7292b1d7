package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func node(name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{Annotation: "true"}}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return n
}

func balanced(name string, addresses ...string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	for _, a := range addresses {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return s
}

func inPool(a netip.Addr) bool {
	return netip.MustParsePrefix("192.0.2.0/24").Contains(a) || netip.MustParsePrefix("2001:db8::/64").Contains(a)
}

// Every address has one node, all nodes have some, and where one leaves only its addresses move.
func TestOneNodePerAddress(t *testing.T) {
	w := &world{pool: inPool, nodes: []*corev1.Node{node("a"), node("b"), node("c")}}
	for i := range 100 {
		w.services = append(w.services, balanced(fmt.Sprint("s", i), fmt.Sprintf("192.0.2.%d", i+1), "203.0.113.1", "nonsense"))
	}
	owners := func() map[netip.Addr]string {
		of := map[netip.Addr]string{}
		for _, n := range w.nodes {
			for _, a := range w.mine(n.Name) {
				require.Empty(t, of[a], "two nodes answer for %s", a)
				of[a] = n.Name
			}
		}
		return of
	}
	before := owners()
	require.Len(t, before, 100)
	for _, name := range []string{"a", "b", "c"} {
		require.Greater(t, len(w.mine(name)), 15)
	}
	w.nodes[1].Status.Conditions[0].Status = corev1.ConditionUnknown
	after := owners()
	require.Len(t, after, 100)
	for a, was := range before {
		if was != "b" {
			require.Equal(t, was, after[a])
		}
	}
}

func TestWhoMayAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*corev1.Node, *corev1.Service)
		want bool
	}{
		"a node that announces": {func(*corev1.Node, *corev1.Service) {}, true},
		"one that does not":     {func(n *corev1.Node, _ *corev1.Service) { n.Annotations = nil }, false},
		"one that is excluded": {func(n *corev1.Node, _ *corev1.Service) {
			n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
		}, false},
		"a class of others":         {func(_ *corev1.Node, s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("other.io/lb") }, false},
		"the class of the pool":     {func(_ *corev1.Node, s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To(Class) }, true},
		"no load balancer any more": {func(_ *corev1.Node, s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }, false},
		"one that is no VIP": {func(_ *corev1.Node, s *corev1.Service) {
			s.Status.LoadBalancer.Ingress[0].IPMode = ptr.To(corev1.LoadBalancerIPModeProxy)
		}, false},
		"Local, without endpoints": {func(_ *corev1.Node, s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n, s := node("a"), balanced("s", "192.0.2.50")
			c.edit(n, s)
			w := &world{pool: inPool, nodes: []*corev1.Node{n}, services: []*corev1.Service{s}}
			require.Equal(t, c.want, len(w.mine("a")) > 0)
		})
	}
}

// Under the policy Local, a node with endpoints answers; one that ends counts where none is ready.
func TestLocal(t *testing.T) {
	s := balanced("s", "192.0.2.50")
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}}}
	w := &world{pool: inPool, nodes: []*corev1.Node{node("a"), node("b"), node("c")}, services: []*corev1.Service{s}, slices: []*discoveryv1.EndpointSlice{slice}}
	who := func() (all []string) {
		for _, n := range w.nodes {
			if len(w.mine(n.Name)) > 0 {
				all = append(all, n.Name)
			}
		}
		return all
	}
	for _, name := range []string{"a", "b", "c"} {
		other := map[string]string{"a": "b", "b": "c", "c": "a"}[name]
		slice.Endpoints = []discoveryv1.Endpoint{
			{NodeName: &name}, {NodeName: &other, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}}}
		require.Equal(t, []string{name}, who())
		slice.Endpoints = slices.Delete(slice.Endpoints, 0, 1)
		require.Equal(t, []string{other}, who())
	}
	slice.Endpoints = nil
	require.Empty(t, who())
}
