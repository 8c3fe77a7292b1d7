package kinds

import (
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

// discoveryKinds are those of discovery.k8s.io.
func discoveryKinds() []*Kind {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return []*Kind{with(Kind{
		GroupVersionKind: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), Resource: "endpointslices", Singular: "endpointslice",
		Namespaced: true, Place: "endpointslices",
		New: func() Object { return &discoveryv1.EndpointSlice{} }, NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("AddressType", doc["addressType"]), textColumn("Ports", doc["ports"]), textColumn("Endpoints", doc["endpoints"]), ageColumn,
		},
	}, Rules[*discoveryv1.EndpointSlice]{
		Default: func(o *discoveryv1.EndpointSlice) {
			for i := range o.Ports {
				p := &o.Ports[i]
				if p.Name == nil {
					p.Name = ptr.To("")
				}
				if p.Protocol == nil {
					p.Protocol = ptr.To(corev1.ProtocolTCP)
				}
			}
		},
		Validate: validateEndpointSlice, ValidateUpdate: validateEndpointSliceUpdate, Ratchets: true, Warnings: warnOfEndpointSlice,
		Create: func(o *discoveryv1.EndpointSlice) { dropTopology(o) },
		Update: updateEndpointSlice,
		Row:    endpointSliceRow,
	})}
}

// updateEndpointSlice counts generations: the object has no spec, all of it is wanted, even its labels.
func updateEndpointSlice(o, old *discoveryv1.EndpointSlice) {
	same := equality.Semantic.DeepEqual(o.Endpoints, old.Endpoints)
	if !same || o.AddressType != old.AddressType || !equality.Semantic.DeepEqual(o.Ports, old.Ports) ||
		!equality.Semantic.DeepEqual(o.Labels, old.Labels) {
		o.Generation = old.Generation + 1
	}
	if !same {
		dropTopology(o)
	}
}

// dropTopology drops what only objects have that came from the beta version.
func dropTopology(o *discoveryv1.EndpointSlice) {
	for i := range o.Endpoints {
		o.Endpoints[i].DeprecatedTopology = nil
	}
}

func endpointSliceRow(o *discoveryv1.EndpointSlice, now time.Time) []any {
	var ports, addresses []string
	for _, p := range o.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		default:
			ports = append(ports, ptr.Deref(p.Name, "*"))
		}
	}
	for _, e := range o.Endpoints {
		addresses = append(addresses, e.Addresses...)
	}
	return []any{o.Name, string(o.AddressType), orText(someOf(ports), "<unset>"), orText(someOf(addresses), "<unset>"), age(o, now)}
}
