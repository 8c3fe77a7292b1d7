package network

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func endpoints() conformance.Behaviours {
	return conformance.Behaviours{
		"Endpoints should test the lifecycle of an Endpoint":                                                        endpointsLifecycle,
		"EndpointsController should create Endpoints for Pods matching a Service":                                   endpointsOfPods,
		"EndpointsController should create and delete Endpoints for a Service with a selector that matches no pods": endpointsOfNoPods,
	}
}

func endpointsLifecycle(t *testing.T, e *conformance.Env) {
	mine, everywhere := e.Client.CoreV1().Endpoints(e.NS), e.Client.CoreV1().Endpoints("")
	selector := metav1.ListOptions{LabelSelector: "static=" + e.NS}
	before, err := everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	since := selector
	since.ResourceVersion = before.ResourceVersion
	w := conformance.Observe[*corev1.Endpoints](t, e, mine.Watch, since)
	made := create(t, e, mine, &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "ep", Labels: map[string]string{"static": e.NS}},
		Subsets: []corev1.EndpointSubset{{
			Addresses: []corev1.EndpointAddress{{IP: "10.0.0.24"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
		}},
	})
	conformance.Revision(t, made)
	w.Next(watch.Added)
	l, err := everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.Equal(t, e.NS, l.Items[0].Namespace)

	updated := conformance.Update(t, e, mine, "ep", func(ep *corev1.Endpoints) { ep.Labels["stage"] = "updated" })
	require.Equal(t, "updated", updated.Labels["stage"])
	require.Equal(t, "updated", w.Next(watch.Modified).Labels["stage"])
	patched, err := mine.Patch(e.Ctx, "ep", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}},
		"subsets":[{"addresses":[{"ip":"10.0.0.25"}],"ports":[{"name":"http-test","port":8080}]}]}`), metav1.PatchOptions{})
	require.NoError(t, err)
	conformance.Newer(t, patched, made)
	require.Equal(t, "patched", w.Next(watch.Modified).Labels["stage"])
	got, err := mine.Get(e.Ctx, "ep", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.0.0.25"}}, Ports: []corev1.EndpointPort{{Name: "http-test", Port: 8080, Protocol: corev1.ProtocolTCP}},
	}}, got.Subsets)
	require.NoError(t, mine.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, selector))
	w.Until(watch.Deleted, "the endpoints", nil)
	_, err = mine.Get(e.Ctx, "ep", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

// addressOf is what is expected of the address of a pod.
func addressOf(t *testing.T, p *corev1.Pod, ref *corev1.ObjectReference) {
	t.Helper()
	require.NotNil(t, ref)
	require.Equal(t, "Pod", ref.Kind)
	require.Equal(t, p.Namespace+"/"+p.Name, ref.Namespace+"/"+ref.Name)
	require.Equal(t, p.UID, ref.UID)
}

// twoServers makes two pods that serve differently, and one service for the first and one for both, by a port's name.
func twoServers(t *testing.T, e *conformance.Env) (first, second *corev1.Pod) {
	t.Helper()
	pods := e.Client.CoreV1().Pods(e.NS)
	create(t, e, pods, serverPod("pod1", map[string]string{"pod1": "on", "shared": "on"}, corev1.ContainerPort{Name: "example-name", ContainerPort: 3000}))
	create(t, e, pods, serverPod("pod2", map[string]string{"pod2": "on", "shared": "on"},
		corev1.ContainerPort{Name: "example-name", ContainerPort: 3001}, corev1.ContainerPort{Name: "other-port", ContainerPort: 3002}))
	svcs := e.Client.CoreV1().Services(e.NS)
	create(t, e, svcs, service("by-number", map[string]string{"pod1": "on"},
		corev1.ServicePort{Name: "example", Port: 80, TargetPort: intstr.FromInt32(3000), Protocol: corev1.ProtocolTCP}))
	create(t, e, svcs, service("by-name", map[string]string{"shared": "on"},
		corev1.ServicePort{Name: "http", Port: 80, TargetPort: intstr.FromString("example-name"), Protocol: corev1.ProtocolTCP}))
	return conformance.PodRunning(t, e, e.NS, "pod1"), conformance.PodRunning(t, e, e.NS, "pod2")
}

func endpointsOfPods(t *testing.T, e *conformance.Env) {
	first, second := twoServers(t, e)
	subsets := func(name string, count int) map[string]corev1.EndpointSubset {
		ep := conformance.Until(t, e, "endpoints of "+name, func() (*corev1.Endpoints, error) {
			ep, err := e.Client.CoreV1().Endpoints(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return ep, err
		}, func(ep *corev1.Endpoints) bool {
			n := 0
			for _, s := range ep.Subsets {
				n += len(s.Addresses)
			}
			return n == count
		})
		require.Len(t, ep.Subsets, count)
		out := map[string]corev1.EndpointSubset{}
		for _, s := range ep.Subsets {
			require.Len(t, s.Addresses, 1)
			require.Len(t, s.Ports, 1)
			out[s.Addresses[0].IP] = s
		}
		return out
	}
	port := func(name string, n int32) []corev1.EndpointPort {
		return []corev1.EndpointPort{{Name: name, Port: n, Protocol: corev1.ProtocolTCP}}
	}
	one := subsets("by-number", 1)[first.Status.PodIP]
	require.Equal(t, port("example", 3000), one.Ports)
	addressOf(t, first, one.Addresses[0].TargetRef)
	both := subsets("by-name", 2)
	require.Equal(t, port("http", 3000), both[first.Status.PodIP].Ports)
	require.Equal(t, port("http", 3001), both[second.Status.PodIP].Ports)
	addressOf(t, first, both[first.Status.PodIP].Addresses[0].TargetRef)
	addressOf(t, second, both[second.Status.PodIP].Addresses[0].TargetRef)
}

func endpointsOfNoPods(t *testing.T, e *conformance.Env) {
	svcs := e.Client.CoreV1().Services(e.NS)
	create(t, e, svcs, service("empty", map[string]string{"matches": "nothing"}, corev1.ServicePort{Name: "example", Port: 80}))
	there := func(yes bool) {
		conformance.Eventually(t, e, "the endpoints come and go", func() (bool, error) {
			ep, err := e.Client.CoreV1().Endpoints(e.NS).Get(e.Ctx, "empty", metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return !yes, nil
			}
			return yes && len(ep.Subsets) == 0, err
		})
	}
	there(true)
	require.NoError(t, svcs.Delete(e.Ctx, "empty", metav1.DeleteOptions{}))
	there(false)
}
