package controllers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	corelisters "k8s.io/client-go/listers/core/v1"
)

func TestEndpointSlices(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIP: "10.0.0.7", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")}},
		},
	}
	pod := func(name, ip string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: labels, ResourceVersion: "1"},
			Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
		}
	}
	web := map[string]string{"app": "web"}
	w := newWorld(t, service, pod("a", "10.1.0.1", web), pod("b", "10.1.0.2", web), pod("other", "10.1.0.3", nil),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	c, err := NewEndpointSlice(w.client, w.factory, w.events, nil)
	require.NoError(t, err)
	w.run(c)
	expect := func(want string) {
		t.Helper()
		eventually(t, func() error {
			l, err := w.client.DiscoveryV1().EndpointSlices("ns").List(w.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
			if err != nil {
				return err
			}
			var got []string
			for _, s := range l.Items {
				for _, e := range s.Endpoints {
					got = append(got, fmt.Sprintf("%s:%d %t", e.Addresses[0], *s.Ports[0].Port, *e.Conditions.Ready))
				}
			}
			slices.Sort(got)
			if s := strings.Join(got, ", "); s != want {
				return fmt.Errorf("%s, not %s", s, want)
			}
			return nil
		})
	}
	expect("10.1.0.1:8080 false, 10.1.0.2:8080 false")
	ready := func(name string) {
		p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		p = p.DeepCopy()
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		_, err = w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, p, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	ready("a")
	expect("10.1.0.1:8080 true, 10.1.0.2:8080 false")
	require.NoError(t, w.client.CoreV1().Pods("ns").Delete(w.ctx, "b", metav1.DeleteOptions{}))
	_, err = w.client.CoreV1().Pods("ns").Create(w.ctx, pod("c", "10.1.0.9", web), metav1.CreateOptions{})
	require.NoError(t, err)
	expect("10.1.0.1:8080 true, 10.1.0.9:8080 false")

	// Slices that somebody removed come back.
	l, err := w.client.DiscoveryV1().EndpointSlices("ns").List(w.ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, s := range l.Items {
		require.NoError(t, w.client.DiscoveryV1().EndpointSlices("ns").Delete(w.ctx, s.Name, metav1.DeleteOptions{}))
	}
	expect("10.1.0.1:8080 true, 10.1.0.9:8080 false")
}

// countedNodes counts how often all nodes are looked at.
type countedNodes struct {
	corelisters.NodeLister
	n atomic.Int32
}

func (c *countedNodes) List(s labels.Selector) ([]*corev1.Node, error) {
	c.n.Add(1)
	return c.NodeLister.List(s)
}

// TestEndpointSlicesManyNodes looks at all nodes together, not for each of them.
func TestEndpointSlicesManyNodes(t *testing.T) {
	const nodes = 300
	var objects []runtime.Object
	for i := range nodes {
		objects = append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}})
	}
	w := newWorld(t, objects...)
	c, err := NewEndpointSlice(w.client, w.factory, w.events, nil)
	require.NoError(t, err)
	e := c.(*endpointSliceController)
	counted := &countedNodes{NodeLister: e.nodes}
	e.nodes = counted
	w.run(c)
	eventually(t, func() error {
		if counted.n.Load() == 0 {
			return errors.New("no node was looked at")
		}
		return nil
	})
	require.Less(t, counted.n.Load(), int32(10))
}
