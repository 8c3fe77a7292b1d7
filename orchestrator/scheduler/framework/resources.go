package framework

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Scalar is an amount of an extended resource, of huge pages or of attachable volumes.
type Scalar struct {
	Name  v1.ResourceName
	Value int64
}

// Resources are amounts of what nodes have and pods request. Scalars are sorted by name and change by copy.
type Resources struct {
	MilliCPU  int64
	Memory    int64
	Ephemeral int64
	// Pods is the number of pods that a node takes.
	Pods    int64
	Scalars []Scalar
}

// NewResources reads a resource list; names that the scheduler does not count are left out.
func NewResources(list v1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case v1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case v1.ResourceMemory:
			r.Memory = q.Value()
		case v1.ResourceEphemeralStorage:
			r.Ephemeral = q.Value()
		case v1.ResourcePods:
			r.Pods = q.Value()
		default:
			if isScalar(name) {
				r.Scalars = append(r.Scalars, Scalar{name, q.Value()})
			}
		}
	}
	slices.SortFunc(r.Scalars, func(a, b Scalar) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return r
}

// Scalar returns the amount of a scalar resource.
func (r *Resources) Scalar(name v1.ResourceName) int64 {
	for i := range r.Scalars {
		if r.Scalars[i].Name == name {
			return r.Scalars[i].Value
		}
	}
	return 0
}

// Get returns the amount of any resource, of CPU in thousandths.
func (r *Resources) Get(name v1.ResourceName) int64 {
	switch name {
	case v1.ResourceCPU:
		return r.MilliCPU
	case v1.ResourceMemory:
		return r.Memory
	case v1.ResourceEphemeralStorage:
		return r.Ephemeral
	case v1.ResourcePods:
		return r.Pods
	}
	return r.Scalar(name)
}

// Add adds o times sign, which is 1 or -1.
func (r *Resources) Add(o *Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.Ephemeral += sign * o.Ephemeral
	r.Pods += sign * o.Pods
	if len(o.Scalars) == 0 {
		return
	}
	sum := slices.Clone(r.Scalars)
	for _, s := range o.Scalars {
		i, found := slices.BinarySearchFunc(sum, s.Name, func(a Scalar, n v1.ResourceName) int {
			return strings.Compare(string(a.Name), string(n))
		})
		if !found {
			sum = slices.Insert(sum, i, Scalar{Name: s.Name})
		}
		if sum[i].Value += sign * s.Value; sum[i].Value == 0 {
			sum = slices.Delete(sum, i, i+1)
		}
	}
	r.Scalars = sum
}

// isNative tells names of Kubernetes itself: without a domain, or in one of kubernetes.io.
func isNative(name v1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), v1.ResourceDefaultNamespacePrefix)
}

// IsExtended tells whether a name is one of an extended resource.
func IsExtended(name v1.ResourceName) bool {
	if isNative(name) || strings.HasPrefix(string(name), v1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(v1.DefaultResourceRequestsPrefix+string(name))) == 0
}

func isScalar(name v1.ResourceName) bool {
	return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(string(name), v1.ResourceAttachableVolumesPrefix) ||
		strings.Contains(string(name), v1.ResourceDefaultNamespacePrefix) || IsExtended(name)
}
