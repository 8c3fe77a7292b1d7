package controllers

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clienttesting "k8s.io/client-go/testing"
)

func TestEndpoints(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Labels: map[string]string{"l": "1"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIP: "10.0.0.7", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")}},
		},
	}
	pod := func(name, ip string, port int32) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}, ResourceVersion: "1"},
			Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port, Protocol: corev1.ProtocolTCP}}}}},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
		}
	}
	w := newWorld(t, service, pod("a", "10.1.0.2", 8080), pod("b", "10.1.0.1", 8080), pod("c", "10.1.0.3", 9090))
	c, err := NewEndpoints(w.client, w.factory, w.events, nil)
	require.NoError(t, err)
	w.run(c)
	expect := func(want string) {
		t.Helper()
		eventually(t, func() error {
			e, err := w.client.CoreV1().Endpoints("ns").Get(w.ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, s := range e.Subsets {
				for _, a := range s.Addresses {
					got = append(got, fmt.Sprintf("%s:%d", a.IP, s.Ports[0].Port))
				}
				for _, a := range s.NotReadyAddresses {
					got = append(got, fmt.Sprintf("(%s:%d)", a.IP, s.Ports[0].Port))
				}
			}
			if s := strings.Join(got, " "); s != want {
				return fmt.Errorf("%s, not %s", s, want)
			}
			if e.Labels["l"] != "1" || e.Labels[endpointsManagedLabel] == "" {
				return fmt.Errorf("%v", e.Labels)
			}
			return nil
		})
	}
	expect("(10.1.0.1:8080) (10.1.0.2:8080) (10.1.0.3:9090)")
	for _, name := range []string{"a", "c"} {
		p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		p = p.DeepCopy()
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		_, err = w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, p, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	expect("10.1.0.2:8080 (10.1.0.1:8080) 10.1.0.3:9090")
	require.NoError(t, w.client.CoreV1().Endpoints("ns").Delete(w.ctx, "web", metav1.DeleteOptions{}))
	expect("10.1.0.2:8080 (10.1.0.1:8080) 10.1.0.3:9090")
	require.NoError(t, w.client.CoreV1().Services("ns").Delete(w.ctx, "web", metav1.DeleteOptions{}))
	eventually(t, func() error {
		if _, err := w.client.CoreV1().Endpoints("ns").Get(w.ctx, "web", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("still there")
		}
		return nil
	})
}

// TestEndpointsBehind: a cache that is behind what was written before is nothing that a user is told.
func TestEndpointsBehind(t *testing.T) {
	w := newWorld(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}})
	gr := schema.GroupResource{Resource: "endpoints"}
	answers := []error{apierrors.NewAlreadyExists(gr, "web"), apierrors.NewConflict(gr, "web", nil), nil}
	var tries atomic.Int32
	w.client.PrependReactor("create", "endpoints", func(clienttesting.Action) (bool, runtime.Object, error) {
		n := tries.Add(1)
		return n <= 2, nil, answers[min(n-1, 2)]
	})
	c, err := NewEndpoints(w.client, w.factory, w.events, nil)
	require.NoError(t, err)
	w.run(c)
	eventually(t, func() error {
		_, err := w.client.CoreV1().Endpoints("ns").Get(w.ctx, "web", metav1.GetOptions{})
		return err
	})
	require.Empty(t, w.events.Events)
}

// TestTooManyEndpoints keeps those that are ready.
func TestTooManyEndpoints(t *testing.T) {
	s := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}}}
	var pods []*corev1.Pod
	for i := range maxAddresses + 10 {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%04d", i)}, Spec: corev1.PodSpec{NodeName: "n"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "x", PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", i/250, i%250)}}},
		}
		if i >= 10 {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		pods = append(pods, p)
	}
	subsets, over := subsetsOf(s, pods)
	require.True(t, over)
	require.Len(t, subsets[0].Addresses, maxAddresses)
	require.Empty(t, subsets[0].NotReadyAddresses)
	subsets, over = subsetsOf(s, pods[:20])
	require.False(t, over)
	require.Len(t, subsets[0].NotReadyAddresses, 10)
}
