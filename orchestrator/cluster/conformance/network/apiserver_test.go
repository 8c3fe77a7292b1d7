package network

import (
	"net"
	"net/url"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func apiServer() conformance.Behaviours {
	return conformance.Behaviours{
		"API Server should have Endpoints and EndpointSlices pointing to API Server": apiServerEndpoints,
		"API Server should provide secure master service":                            apiServerService,
	}
}

func apiServerService(t *testing.T, e *conformance.Env) {
	s, err := e.Client.CoreV1().Services("default").Get(e.Ctx, "kubernetes", metav1.GetOptions{})
	require.NoError(t, err)
	require.Len(t, s.Spec.Ports, 1)
	require.Equal(t, "https", s.Spec.Ports[0].Name)
	require.EqualValues(t, 443, s.Spec.Ports[0].Port)
}

func apiServerEndpoints(t *testing.T, e *conformance.Env) {
	apiServerService(t, e)
	var fromEndpoints, fromSlices []string
	conformance.Eventually(t, e, "the API server is advertised", func() (bool, error) {
		ep, err := e.Client.CoreV1().Endpoints("default").Get(e.Ctx, "kubernetes", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		fromEndpoints, fromSlices = nil, nil
		for _, s := range ep.Subsets {
			for _, a := range s.Addresses {
				for _, p := range s.Ports {
					fromEndpoints = append(fromEndpoints, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
				}
			}
		}
		list, err := e.Client.DiscoveryV1().EndpointSlices("default").List(e.Ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
		if err != nil {
			return false, err
		}
		for _, s := range list.Items {
			for _, x := range s.Endpoints {
				require.True(t, *x.Conditions.Ready)
				for _, p := range s.Ports {
					fromSlices = append(fromSlices, net.JoinHostPort(x.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
		return len(fromSlices) > 0, nil
	})
	require.Equal(t, fromEndpoints, fromSlices)
	u, err := url.Parse(e.URL)
	require.NoError(t, err)
	require.Equal(t, []string{net.JoinHostPort("192.0.2.1", u.Port())}, fromSlices)
}
