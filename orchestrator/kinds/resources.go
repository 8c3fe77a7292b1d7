package kinds

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// inNames calls visit for the entries of a list in the order of their names, so that messages come in one order.
func inNames(l corev1.ResourceList, visit func(name corev1.ResourceName, q resource.Quantity)) {
	for _, name := range slices.Sorted(maps.Keys(l)) {
		visit(name, l[name])
	}
}

// nativeResource says that a resource is one of Kubernetes: in its namespace, or without one.
func nativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// extendedResource says that a resource is one that devices offer.
func extendedResource(name corev1.ResourceName) bool {
	return !nativeResource(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(utilvalidation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

func hugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// overcommittable says that the limit of a resource may be above its request.
func overcommittable(name corev1.ResourceName) bool { return nativeResource(name) && !hugePages(name) }

func containerResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return true
	}
	return hugePages(name)
}

// countedResource says that a resource is a number of objects.
func countedResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return false
}

// quotaResource says that a quota can be of a resource.
func quotaResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceLimitsEphemeralStorage:
		return true
	}
	return countedResource(name) || hugePages(name) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// resourceName checks the name of a resource: one of Kubernetes, or one with a prefix.
func (p *problems) resourceName(at *field.Path, name corev1.ResourceName) bool {
	if messages := utilvalidation.IsQualifiedName(string(name)); len(messages) > 0 {
		p.each(at, name, messages)
		return false
	}
	if !strings.Contains(string(name), "/") && !quotaResource(name) && name != corev1.ResourceStorage {
		p.invalid(at, name, "must be a standard resource type or fully qualified")
		return false
	}
	return true
}

// containerResourceName checks the name of a resource that a container has.
func (p *problems) containerResourceName(at *field.Path, name corev1.ResourceName) {
	p.resourceName(at, name)
	switch {
	case !strings.Contains(string(name), "/"):
		if !containerResource(name) {
			p.invalid(at, name, "must be a standard resource for containers")
		}
	case !nativeResource(name) && !extendedResource(name):
		p.invalid(at, name, "doesn't follow extended resource name standard")
	}
}

// resourceValue checks how much of a resource there is.
func (p *problems) resourceValue(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	p.quantityNotNegative(at, q)
	if (countedResource(name) || extendedResource(name)) && q.MilliValue()%1000 != 0 {
		p.invalid(at, q, "must be an integer")
	}
}

// quotas checks how much of resources a quota is.
func (p *problems) quotas(at *field.Path, l corev1.ResourceList) {
	inNames(l, func(name corev1.ResourceName, q resource.Quantity) {
		at := at.Key(string(name))
		p.resourceName(at, name)
		if !strings.Contains(string(name), "/") && !quotaResource(name) {
			p.invalid(at, name, "must be a standard resource for quota")
		}
		p.resourceValue(at, name, q)
	})
}
