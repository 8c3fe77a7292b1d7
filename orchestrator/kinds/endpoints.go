package kinds

import (
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func endpointsKind() *Kind {
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Endpoints"), Resource: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"},
		Namespaced: true, Place: "services/endpoints",
		New: func() Object { return &corev1.Endpoints{} }, NewList: func() runtime.Object { return &corev1.EndpointsList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{
			Unconditional: true, CreateOnUpdate: true, Deprecation: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
		},
		Columns: []metav1.TableColumnDefinition{nameColumn, textColumn("Endpoints", corev1.Endpoints{}.SwaggerDoc()["subsets"]), ageColumn},
	}, Rules[*corev1.Endpoints]{
		Default: func(o *corev1.Endpoints) {
			for i := range o.Subsets {
				for j := range o.Subsets[i].Ports {
					p := &o.Subsets[i].Ports[j]
					p.Protocol = corev1.Protocol(orText(string(p.Protocol), string(corev1.ProtocolTCP)))
				}
			}
		},
		Validate: validateEndpoints, ValidateUpdate: validateEndpointsUpdate, Ratchets: true, Warnings: warnOfEndpoints,
		Row: func(o *corev1.Endpoints, now time.Time) []any { return []any{o.Name, endpointsCell(o), age(o, now)} },
	})
}

// endpointsCell lists the addresses that are ready, with every port.
func endpointsCell(o *corev1.Endpoints) string {
	if len(o.Subsets) == 0 {
		return "<none>"
	}
	var all []string
	for _, s := range o.Subsets {
		if len(s.Ports) == 0 { // of a headless service
			for _, a := range s.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	return someOf(all)
}
