package network

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func endpointSlices() conformance.Behaviours {
	return conformance.Behaviours{
		"EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service":                     slicesOfPods,
		"EndpointSlice should create and delete EndpointSlices for a Service with a selector that matches no pods": slicesOfNoPods,
		"EndpointSlice should support creating EndpointSlice API operations":                                       sliceOperations,
		"EndpointSliceMirroring should mirror a custom Endpoints resource through create update and delete":        slicesMirror,
	}
}

// slicesUntil waits until the slices of a service are as awaited.
func slicesUntil(t *testing.T, e *conformance.Env, service, what string, is func([]discoveryv1.EndpointSlice) bool) []discoveryv1.EndpointSlice {
	t.Helper()
	return conformance.Until(t, e, what, func() ([]discoveryv1.EndpointSlice, error) {
		l, err := e.Client.DiscoveryV1().EndpointSlices(e.NS).List(e.Ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
		if err != nil {
			return nil, err
		}
		return l.Items, nil
	}, is)
}

func slicesOfPods(t *testing.T, e *conformance.Env) {
	first, second := twoServers(t, e)
	byPod := func(service string, count int) map[string]discoveryv1.EndpointSlice {
		found := slicesUntil(t, e, service, fmt.Sprintf("%d pods of %s have slices", count, service), func(all []discoveryv1.EndpointSlice) bool {
			n := 0
			for _, s := range all {
				n += len(s.Endpoints)
			}
			return n == count
		})
		require.Len(t, found, count)
		out := map[string]discoveryv1.EndpointSlice{}
		for _, s := range found {
			require.Len(t, s.Endpoints, 1)
			require.Equal(t, discoveryv1.AddressTypeIPv4, s.AddressType)
			out[s.Endpoints[0].Addresses[0]] = s
		}
		return out
	}
	port := func(name string, n int32) []discoveryv1.EndpointPort {
		return []discoveryv1.EndpointPort{{Name: &name, Port: &n, Protocol: ptr.To(corev1.ProtocolTCP)}}
	}
	one := byPod("by-number", 1)[first.Status.PodIP]
	require.Equal(t, port("example", 3000), one.Ports)
	addressOf(t, first, one.Endpoints[0].TargetRef)
	both := func() (uids []string) {
		found := byPod("by-name", 2)
		a, b := found[first.Status.PodIP], found[second.Status.PodIP]
		require.Equal(t, port("http", 3000), a.Ports)
		require.Equal(t, port("http", 3001), b.Ports)
		addressOf(t, first, a.Endpoints[0].TargetRef)
		addressOf(t, second, b.Endpoints[0].TargetRef)
		return []string{string(a.UID), string(b.UID)}
	}
	were := both()
	require.NoError(t, e.Client.DiscoveryV1().EndpointSlices(e.NS).DeleteCollection(e.Ctx, metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=by-name"}))
	for _, uid := range both() {
		require.NotContains(t, were, uid, "it was made again")
	}
}

func slicesOfNoPods(t *testing.T, e *conformance.Env) {
	svcs := e.Client.CoreV1().Services(e.NS)
	create(t, e, svcs, service("empty", map[string]string{"matches": "nothing"}, corev1.ServicePort{Name: "example", Port: 80}))
	found := slicesUntil(t, e, "empty", "there is a slice", func(all []discoveryv1.EndpointSlice) bool { return len(all) > 0 })
	require.Equal(t, "endpointslice-controller.k8s.io", found[0].Labels[discoveryv1.LabelManagedBy])
	require.Empty(t, found[0].Endpoints)
	require.NoError(t, svcs.Delete(e.Ctx, "empty", metav1.DeleteOptions{}))
	slicesUntil(t, e, "empty", "there is no slice", func(all []discoveryv1.EndpointSlice) bool { return len(all) == 0 })
}

func sliceOperations(t *testing.T, e *conformance.Env) {
	conformance.Operations[*discoveryv1.EndpointSlice]{
		Resource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), Kind: "EndpointSlice", Namespaced: true,
		Make: func(int) *discoveryv1.EndpointSlice {
			return &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"1.2.3.4", "5.6.7.8"}}, {Addresses: []string{"2.2.3.4", "6.6.7.8"}},
			}}
		},
	}.Run(t, e)
}

// slicesMirror makes, changes and deletes endpoints of a service without a selector.
func slicesMirror(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.CoreV1().Services(e.NS), service("custom", nil, corev1.ServicePort{Name: "example", Port: 80, Protocol: corev1.ProtocolTCP}))
	mine := e.Client.CoreV1().Endpoints(e.NS)
	create(t, e, mine, &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "custom"},
		Subsets:    []corev1.EndpointSubset{{Ports: []corev1.EndpointPort{{Port: 80}}, Addresses: []corev1.EndpointAddress{{IP: "10.1.2.3"}}}},
	})
	mirrors := func(address string) {
		slicesUntil(t, e, "custom", "the slice has "+address, func(all []discoveryv1.EndpointSlice) bool {
			if len(all) != 1 || len(all[0].Endpoints) != 1 || len(all[0].Ports) != 1 {
				return false
			}
			require.EqualValues(t, 80, *all[0].Ports[0].Port)
			require.Len(t, all[0].Endpoints[0].Addresses, 1)
			return all[0].Endpoints[0].Addresses[0] == address
		})
	}
	mirrors("10.1.2.3")
	conformance.Update(t, e, mine, "custom", func(ep *corev1.Endpoints) { ep.Subsets[0].Addresses[0].IP = "10.2.3.4" })
	mirrors("10.2.3.4")
	require.NoError(t, mine.Delete(e.Ctx, "custom", metav1.DeleteOptions{}))
	slicesUntil(t, e, "custom", "there is no slice", func(all []discoveryv1.EndpointSlice) bool { return len(all) == 0 })
}
