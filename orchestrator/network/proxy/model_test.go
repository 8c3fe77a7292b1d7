package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// objects are what a random cluster consists of at some time.
type objects struct {
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
	nodes    map[string]*corev1.Node
}

func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomService(r *rand.Rand) *corev1.Service {
	i := r.IntN(6)
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("s", i), CreationTimestamp: metav1.NewTime(time.Unix(int64(r.IntN(3)), 0))}}
	s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.0.%d", i+1), fmt.Sprintf("fd00:96::%d", i+1)}[:1+r.IntN(2)]
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	s.Spec.Type = one(r, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer)
	s.Spec.SessionAffinity = one(r, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	s.Spec.ExternalTrafficPolicy = one(r, corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceExternalTrafficPolicyCluster)
	s.Spec.InternalTrafficPolicy = ptr.To(one(r, corev1.ServiceInternalTrafficPolicyLocal, corev1.ServiceInternalTrafficPolicyCluster))
	s.Spec.Ports = []corev1.ServicePort{
		{Name: "a", Port: int32(80 + r.IntN(2)), Protocol: "TCP", NodePort: int32(30000 + r.IntN(3))},
		{Name: "b", Port: 53, Protocol: "UDP", NodePort: int32(30000 + r.IntN(3))},
	}[:1+r.IntN(2)]
	if r.IntN(3) == 0 {
		s.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", r.IntN(2))}
	}
	if r.IntN(2) == 0 {
		s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "0.0.0.0/0"}
	}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("198.51.100.%d", r.IntN(3))}, {IP: "2001:db8::5"}}
	return s
}

func randomSlice(r *rand.Rand) *discoveryv1.EndpointSlice {
	v4 := r.IntN(2) == 0
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv6}
	s.Namespace, s.Name, s.Labels = "default", fmt.Sprint("e", r.IntN(8)), map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("s", r.IntN(6))}
	for _, p := range []string{"a", "b"} {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &p, Port: ptr.To(int32(8000 + r.IntN(2))), Protocol: ptr.To(map[string]corev1.Protocol{"a": "TCP", "b": "UDP"}[p])})
	}
	for range r.IntN(5) {
		i := r.IntN(6)
		a := fmt.Sprintf("fd00:1::%d", i+1)
		if v4 {
			s.AddressType, a = discoveryv1.AddressTypeIPv4, fmt.Sprintf("10.244.1.%d", i+1)
		}
		serving := r.IntN(3) > 0
		e := discoveryv1.Endpoint{Addresses: []string{a}, NodeName: ptr.To(one(r, "here", "there")), Conditions: discoveryv1.EndpointConditions{
			Ready: ptr.To(serving && r.IntN(3) > 0), Serving: &serving, Terminating: ptr.To(r.IntN(2) == 0)}}
		if r.IntN(4) > 0 {
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: one(r, "x", "y")}}, ForNodes: []discoveryv1.ForNode{{Name: one(r, "here", "there")}}[:r.IntN(2)]}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// step changes something of a cluster, and tells a State.
func (o *objects) step(r *rand.Rand, s *State) {
	switch r.IntN(6) {
	case 0, 1:
		x := randomService(r)
		o.services[x.Name] = x
		s.SetService(x)
	case 2, 3:
		x := randomSlice(r)
		o.slices[x.Name] = x
		s.SetSlice(x)
	case 4:
		for name, x := range o.services {
			if r.IntN(2) == 0 {
				delete(o.services, name)
				s.DropService(x)
				break
			}
		}
		for name, x := range o.slices {
			if r.IntN(2) == 0 {
				delete(o.slices, name)
				s.DropSlice(x)
				break
			}
		}
	case 5:
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: one(r, "here", "there"), Labels: map[string]string{corev1.LabelTopologyZone: one(r, "x", "y")}}}
		n.Spec.PodCIDRs = []string{fmt.Sprintf("10.244.%d.0/24", r.IntN(4)), "fd00:1::/64"}
		o.nodes[n.Name] = n
		s.SetNode(n)
	}
}

// fresh is the table that is made of a cluster at once.
func (o *objects) fresh(fixed surroundings) (*nft.Table, counts) {
	s := newState("here", fixed)
	for _, x := range o.nodes {
		s.SetNode(x)
	}
	for _, x := range o.services {
		s.SetService(x)
	}
	for _, x := range o.slices {
		s.SetSlice(x)
	}
	s.Change()
	c := s.take()
	c.serviceChanges, c.sliceChanges = 0, 0
	return s.Table(), c
}

// Whatever changes, in whatever order: the table that patches make is the one that is made at once of what there is, the
// kernel takes every patch, and holds it.
func TestAnyChanges(t *testing.T) {
	ns := testkit.NewNetNS(t)
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 5))
		fixed := surroundings{ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, nodeAddresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
		s := newState("here", fixed)
		o := &objects{map[string]*corev1.Service{}, map[string]*discoveryv1.EndpointSlice{}, map[string]*corev1.Node{}}
		w := nft.NewWriter(TableName, int(f.Fd()))
		s.Change()
		written := s.Table()
		require.NoError(t, w.Sync(written))
		for i := range 60 {
			for range 1 + r.IntN(3) {
				o.step(r, s)
			}
			require.NoError(t, w.Patch(s.Change().Patch), "seed %d, step %d", seed, i)
			want, counts := o.fresh(fixed)
			require.Equal(t, want.String(), written.String(), "seed %d, step %d", seed, i)
			require.Equal(t, want.String(), s.Table().String(), "seed %d, step %d", seed, i)
			c := s.take()
			c.serviceChanges, c.sliceChanges = 0, 0
			require.Equal(t, counts, c)
			repaired, err := w.Check()
			require.NoError(t, err)
			require.False(t, repaired, "seed %d, step %d: the kernel holds something else", seed, i)
		}
		require.NoError(t, w.Remove())
	}
}

// BenchmarkUpdate is what it costs to write that one endpoint of one of many services is another one, and to look afterwards
// whether somebody else changed the table. ms/first is what the first write takes, ms/look the first look at all of it. A
// change waits for the kernel to be done with what the one before took out, some ten milliseconds if they follow at once.
func BenchmarkUpdate(b *testing.B) {
	ns := testkit.NewNetNS(b)
	f, err := os.Open(ns.Path())
	require.NoError(b, err)
	defer func() { _ = f.Close() }()
	for _, services := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			s := newState("here", surroundings{})
			slices := make([]*discoveryv1.EndpointSlice, services)
			for i := range services {
				svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("s", i)}}
				svc.Spec.Type = corev1.ServiceTypeNodePort
				svc.Spec.ClusterIP = fmt.Sprintf("10.%d.%d.%d", 96+i>>16, i>>8&255, i&255)
				svc.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80, Protocol: "TCP", NodePort: int32(30000 + i)}}
				s.SetService(svc)
				slices[i] = sliceOf(svc.Name, i, 0)
				s.SetSlice(slices[i])
			}
			s.Change()
			w := nft.NewWriter(TableName, int(f.Fd()))
			begun := time.Now()
			require.NoError(b, w.Sync(s.Table()))
			written := time.Now()
			_, err := w.Check()
			require.NoError(b, err)
			looked := time.Now()
			n := 0
			for b.Loop() {
				n++
				s.SetSlice(sliceOf(fmt.Sprint("s", n%services), n%services, n))
				if err := w.Patch(s.Change().Patch); err != nil {
					b.Fatal(err)
				}
				if _, err := w.Check(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(written.Sub(begun).Milliseconds()), "ms/first")
			b.ReportMetric(float64(looked.Sub(written).Milliseconds()), "ms/look")
			require.NoError(b, w.Remove())
		})
	}
}

// sliceOf is a slice of three endpoints; the last one depends on n.
func sliceOf(service string, i, n int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	s.Namespace, s.Name, s.Labels = "default", service, map[string]string{discoveryv1.LabelServiceName: service}
	s.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("a"), Port: ptr.To(int32(8080)), Protocol: ptr.To(corev1.ProtocolTCP)}}
	for k := range 3 {
		a := netip.AddrFrom4([4]byte{10, byte(200 + k), byte(i >> 8), byte(i)})
		if k == 2 {
			a = netip.AddrFrom4([4]byte{10, 203, byte(n >> 8), byte(n)})
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}})
	}
	return s
}
