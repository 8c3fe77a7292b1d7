package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	serviceResource = schema.GroupResource{Resource: "services"}
	addressResource = schema.GroupResource{Group: networkingv1.GroupName, Resource: "ipaddresses"}
	sliceResource   = schema.GroupResource{Group: discoveryv1.GroupName, Resource: "endpointslices"}
)

// services finds where services are, for webhooks and aggregated API servers.
type services struct{ objects Objects }

// Resolve returns host and port of a ready endpoint of a service's port.
func (s services) Resolve(ctx context.Context, namespace, name string, port int32) (string, error) {
	svc, err := find[*corev1.Service](ctx, s.objects, serviceResource, namespace, name)
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("service %q not found", name)
	}
	if err != nil {
		return "", err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(port))), nil
	}
	for _, p := range svc.Spec.Ports {
		if p.Port == port {
			return s.endpoint(ctx, svc, p.Name)
		}
	}
	return "", fmt.Errorf("no service port %d found for service %q", port, name)
}

// endpoint chooses one of the ready endpoints of a service's port.
func (s services) endpoint(ctx context.Context, svc *corev1.Service, port string) (string, error) {
	all, err := s.Slices(ctx, svc.Namespace, svc.Name)
	if err != nil {
		return "", err
	}
	var ready []string
	for _, slice := range all {
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != port {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					for _, a := range e.Addresses {
						ready = append(ready, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
					}
				}
			}
		}
	}
	if len(ready) == 0 {
		return "", fmt.Errorf("no endpoints available for service %q", svc.Name)
	}
	return ready[rand.IntN(len(ready))], nil
}

// Service returns a service, or a status error NotFound.
func (s services) Service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	return find[*corev1.Service](ctx, s.objects, serviceResource, namespace, name)
}

// Slices returns the endpoints of a service.
func (s services) Slices(ctx context.Context, namespace, service string) (out []*discoveryv1.EndpointSlice, err error) {
	all, err := s.objects.List(ctx, sliceResource, namespace)
	for _, o := range all {
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok && slice.Labels[discoveryv1.LabelServiceName] == service {
			out = append(out, slice)
		}
	}
	return out, err
}
