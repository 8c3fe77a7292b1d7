package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestMirror follows Endpoints objects of services with and without selectors.
func TestMirror(t *testing.T) {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "x", ResourceVersion: "1"}
	}
	port := func(n int32) []corev1.EndpointPort {
		return []corev1.EndpointPort{{Name: "p", Port: n, Protocol: corev1.ProtocolTCP}}
	}
	at := func(ips ...string) (out []corev1.EndpointAddress) {
		for _, ip := range ips {
			out = append(out, corev1.EndpointAddress{IP: ip})
		}
		return out
	}
	own := &corev1.Endpoints{ObjectMeta: meta("own"), Subsets: []corev1.EndpointSubset{{Ports: port(80), Addresses: at("10.0.0.1", "fd00::1"), NotReadyAddresses: at("10.0.0.2")}}}
	own.Annotations = map[string]string{"note": "kept", corev1.LastAppliedConfigAnnotation: "{}"}
	skipped := &corev1.Endpoints{ObjectMeta: meta("skipped"), Subsets: []corev1.EndpointSubset{{Ports: port(80), Addresses: at("10.0.0.9")}}}
	skipped.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	selected := &corev1.Endpoints{ObjectMeta: meta("selected"), Subsets: skipped.Subsets}
	alone := &corev1.Endpoints{ObjectMeta: meta("alone"), Subsets: skipped.Subsets}
	w := newWorld(t, own, skipped, selected, alone, &corev1.Service{ObjectMeta: meta("own")}, &corev1.Service{ObjectMeta: meta("skipped")},
		&corev1.Service{ObjectMeta: meta("selected"), Spec: corev1.ServiceSpec{Selector: map[string]string{"a": "b"}}})
	c, err := NewEndpointSliceMirroring(w.client, w.factory, w.events, nil)
	require.NoError(t, err)
	w.run(c)
	all := w.client.DiscoveryV1().EndpointSlices("ns")
	expect := func(want ...string) {
		t.Helper()
		eventually(t, func() error {
			l, err := all.List(w.ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			got := []string{}
			for _, s := range l.Items {
				line := fmt.Sprintf("%s %s %d", s.Labels[discoveryv1.LabelServiceName], s.AddressType, *s.Ports[0].Port)
				for _, e := range s.Endpoints {
					line += fmt.Sprintf(" %s=%t", e.Addresses[0], *e.Conditions.Ready)
				}
				got = append(got, line)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				return fmt.Errorf("%s, not %s", strings.Join(got, "; "), strings.Join(want, "; "))
			}
			return nil
		})
	}
	expect("own IPv4 80 10.0.0.1=true 10.0.0.2=false", "own IPv6 80 fd00::1=true")
	l, err := all.List(w.ctx, metav1.ListOptions{})
	require.NoError(t, err)
	names := []string{l.Items[0].Name, l.Items[1].Name}
	require.Equal(t, map[string]string{"note": "kept"}, l.Items[0].Annotations)
	require.True(t, metav1.IsControlledBy(&l.Items[0], own))

	update := func(change func(*corev1.Endpoints)) {
		ep, err := w.client.CoreV1().Endpoints("ns").Get(w.ctx, "own", metav1.GetOptions{})
		require.NoError(t, err)
		ep = ep.DeepCopy()
		change(ep)
		_, err = w.client.CoreV1().Endpoints("ns").Update(w.ctx, ep, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	update(func(ep *corev1.Endpoints) {
		ep.Subsets = []corev1.EndpointSubset{{Ports: port(81), Addresses: at("10.0.0.3")}}
	})
	expect("own IPv4 81 10.0.0.3=true")
	l, err = all.List(w.ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Contains(t, names, l.Items[0].Name, "the slice was used again")

	require.NoError(t, all.Delete(w.ctx, l.Items[0].Name, metav1.DeleteOptions{}))
	eventually(t, func() error {
		again, err := all.List(w.ctx, metav1.ListOptions{})
		if err == nil && (len(again.Items) != 1 || again.Items[0].UID == l.Items[0].UID) {
			err = fmt.Errorf("what was removed is not made again")
		}
		return err
	})
	update(func(ep *corev1.Endpoints) { ep.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"} })
	expect()
	update(func(ep *corev1.Endpoints) { ep.Labels = nil })
	expect("own IPv4 81 10.0.0.3=true")
	require.NoError(t, w.client.CoreV1().Endpoints("ns").Delete(w.ctx, "own", metav1.DeleteOptions{}))
	expect()
}
