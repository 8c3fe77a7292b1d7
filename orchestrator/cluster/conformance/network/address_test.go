package network

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func addresses() conformance.Behaviours {
	return conformance.Behaviours{
		"ServiceCIDR and IPAddress API should support IPAddress API operations":   addressOperations,
		"ServiceCIDR and IPAddress API should support ServiceCIDR API operations": cidrOperations,
	}
}

// cidrOperations looks at the range that the cluster has by itself.
func cidrOperations(t *testing.T, e *conformance.Env) {
	cidrs := e.Client.NetworkingV1().ServiceCIDRs()
	c, err := cidrs.Get(e.Ctx, "kubernetes", metav1.GetOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, c.Spec.CIDRs)
	got, err := e.Dynamic(t).Resource(networkingv1.SchemeGroupVersion.WithResource("servicecidrs")).Get(e.Ctx, "kubernetes", metav1.GetOptions{}, "status")
	require.NoError(t, err)
	require.Equal(t, networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"), got.GroupVersionKind())
	require.Equal(t, c.UID, got.GetUID())
	l, err := cidrs.List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, l.Items)
	w := conformance.Observe[*networkingv1.ServiceCIDR](t, e, cidrs.Watch, metav1.ListOptions{})
	w.Until(watch.Added, "the range", func(x *networkingv1.ServiceCIDR) bool { return x.UID == c.UID })
}

func addressOperations(t *testing.T, e *conformance.Env) {
	conformance.Operations[*networkingv1.IPAddress]{
		Resource: networkingv1.SchemeGroupVersion.WithResource("ipaddresses"), Kind: "IPAddress",
		Make: func(i int) *networkingv1.IPAddress {
			// Addresses are named by themselves. Neither is one that services get.
			name := []string{"255.255.255.255", "fe80::42:1dff:fe84:f9e2", "fe80::42:1dff:fe84:f9e3"}[i]
			return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IPAddressSpec{
				ParentRef: &networkingv1.ParentReference{Group: "mygroup", Resource: "myresources", Namespace: "foo", Name: fmt.Sprintf("bar-%d", i)},
			}}
		},
	}.Run(t, e)
}
