package controllers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func balanced(name string, change func(s *corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	if change != nil {
		change(s)
	}
	return s
}

func TestLoadBalancer(t *testing.T) {
	pool, err := ParseAddressRanges([]string{"192.0.2.1-192.0.2.2", "2001:db8::/127"})
	require.NoError(t, err)
	other := "example.com/other"
	w := newWorld(t, balanced("a", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.2" }),
		balanced("other", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &other }), balanced("internal", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }))
	c, err := NewLoadBalancer(w.client, w.factory, w.events, nil, pool)
	require.NoError(t, err)
	w.run(c)
	is := func(name, want string) {
		t.Helper()
		eventually(t, func() error {
			s, err := w.client.CoreV1().Services("ns").Get(w.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, i := range s.Status.LoadBalancer.Ingress {
				got = append(got, i.IP)
			}
			if strings.Join(got, " ") != want {
				return fmt.Errorf("%s has %v", name, got)
			}
			return nil
		})
	}
	is("a", "192.0.2.2")
	for _, s := range []*corev1.Service{
		balanced("b", func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
		}), balanced("c", nil),
	} {
		_, err := w.client.CoreV1().Services("ns").Create(w.ctx, s, metav1.CreateOptions{})
		require.NoError(t, err)
		if s.Name == "b" {
			is("b", "2001:db8:: 192.0.2.1")
		}
	}
	require.Contains(t, eventOf(w, "SyncLoadBalancerFailed"), "the pool has no free IPv4 address")
	is("c", "")
	is("other", "")
	require.NoError(t, w.client.CoreV1().Services("ns").Delete(w.ctx, "a", metav1.DeleteOptions{}))
	is("c", "192.0.2.2")
	eventually(t, func() error {
		s, err := w.client.CoreV1().Services("ns").Get(w.ctx, "c", metav1.GetOptions{})
		if err != nil {
			return err
		}
		s = s.DeepCopy()
		s.Spec.Type = corev1.ServiceTypeClusterIP
		_, err = w.client.CoreV1().Services("ns").Update(w.ctx, s, metav1.UpdateOptions{})
		return err
	})
	is("c", "")
}

// eventOf is the next event with a reason.
func eventOf(w *world, reason string) string {
	for {
		select {
		case e := <-w.events.Events:
			if strings.Contains(e, reason) {
				return e
			}
		case <-w.ctx.Done():
			return ""
		}
	}
}

func TestAddressRanges(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.0/30": "192.0.2.0-192.0.2.3", "192.0.2.7": "192.0.2.7-192.0.2.7", "192.0.2.1-192.0.2.9": "192.0.2.1-192.0.2.9",
		"2001:db8::/126": "2001:db8::-2001:db8::3", "192.0.2.9-192.0.2.1": "", "192.0.2.1-2001:db8::": "", "x": "",
	} {
		got, err := ParseAddressRanges([]string{in})
		if want == "" {
			require.Error(t, err, in)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, got[0].First.String()+"-"+got[0].Last.String())
	}
}
