package network

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func latency() conformance.Behaviours {
	return conformance.Behaviours{
		"Service endpoints latency should not be very high": serviceLatency,
	}
}

// The behaviour's own limits for the time from the creation of a service to its endpoints. They are far above what is usual.
const (
	latencyServices, latencyClients = 200, 15
	latencyMedian, latencyHighest   = 20 * time.Second, 50 * time.Second // the latter of 99 in 100
)

func serviceLatency(t *testing.T, e *conformance.Env) {
	selector := map[string]string{"name": "svc-latency"}
	create(t, e, e.Client.CoreV1().ReplicationControllers(e.NS), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "svc-latency"},
		Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To(int32(1)), Selector: selector, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: selector}, Spec: serverPod("", nil).Spec,
		}},
	})
	conformance.PodsRunning(t, e, "name=svc-latency", 1)
	w := conformance.Observe[*discoveryv1.EndpointSlice](t, e, e.Client.DiscoveryV1().EndpointSlices(e.NS).Watch, metav1.ListOptions{})
	var mu sync.Mutex
	begun := map[string]time.Time{}
	failed := make(chan error, latencyServices)
	names := make(chan string)
	for range latencyClients {
		go func() {
			for name := range names {
				mu.Lock()
				begun[name] = time.Now()
				mu.Unlock()
				s := service(name, selector, corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolTCP})
				_, err := e.Client.CoreV1().Services(e.NS).Create(e.Ctx, s, metav1.CreateOptions{})
				failed <- err
			}
		}()
	}
	go func() {
		defer close(names)
		for i := range latencyServices {
			names <- fmt.Sprintf("latency-%d", i)
		}
	}()
	took := map[string]time.Duration{}
	for len(took) < latencyServices {
		s := w.Until(watch.Added, "slices of all services", func(s *discoveryv1.EndpointSlice) bool { return len(s.Endpoints) == 1 })
		name := s.Labels[discoveryv1.LabelServiceName]
		mu.Lock()
		took[name] = time.Since(begun[name])
		mu.Unlock()
	}
	for range latencyServices {
		require.NoError(t, <-failed)
	}
	var all []time.Duration
	for _, d := range took {
		all = append(all, d)
	}
	slices.Sort(all)
	t.Logf("median %v, 99 in 100 %v", all[len(all)/2], all[len(all)*99/100])
	require.Less(t, all[len(all)/2], latencyMedian)
	require.Less(t, all[len(all)*99/100], latencyHighest)
}
