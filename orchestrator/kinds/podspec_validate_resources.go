package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

// resources checks what a container, or a pod as a whole, asks for.
func (p *podCheck) resources(r *corev1.ResourceRequirements, at *field.Path, name func(at *field.Path, name corev1.ResourceName)) {
	limits, requests := at.Child("limits"), at.Child("requests")
	pages, compute := false, false
	check := func(at *field.Path, n corev1.ResourceName, q resource.Quantity) {
		name(at, n)
		p.resourceValue(at, n, q)
		pages = pages || hugePages(n)
		compute = compute || n == corev1.ResourceCPU || n == corev1.ResourceMemory
	}
	inNames(r.Limits, func(n corev1.ResourceName, q resource.Quantity) {
		check(limits.Key(string(n)), n, q)
		p.wholePages(limits.Key(string(n)), n, q)
	})
	inNames(r.Requests, func(n corev1.ResourceName, q resource.Quantity) {
		check(requests.Key(string(n)), n, q)
		switch limit, limited := r.Limits[n]; {
		case !limited && !overcommittable(n):
			p.required(limits, "Limit must be set for non overcommitable resources")
		case !limited:
		case !overcommittable(n) && q.Cmp(limit) != 0:
			p.invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", n, limit.String()))
		case q.Cmp(limit) > 0:
			p.invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", n, limit.String()))
		}
		p.wholePages(requests.Key(string(n)), n, q)
	})
	if pages && !compute {
		p.forbidden(at, "HugePages require cpu or memory")
	}
	p.claimNames(r.Claims, at.Child("claims"))
}

// wholePages checks that huge pages are whole.
func (p *podCheck) wholePages(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	text, huge := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
	if !huge {
		return
	}
	size, err := resource.ParseQuantity(text)
	if err != nil || size.Sign() <= 0 || size.MilliValue()%1000 != 0 || q.Value()%size.Value() != 0 {
		p.invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))
	}
}

// claimNames checks which claims of its pod a container uses.
func (p *podCheck) claimNames(claims []corev1.ResourceClaim, at *field.Path) {
	seen := sets.Set[string]{} // names, and names with requests
	for i, c := range claims {
		at := at.Index(i)
		switch {
		case c.Name == "":
			p.required(at, "")
			continue
		case seen.Has(c.Name):
			p.duplicate(at, c.Name)
		default:
			key := c.Name
			if c.Request != "" {
				p.label(at.Child("request"), c.Request)
				key += "/" + c.Request
			}
			if seen.Has(key) {
				p.duplicate(at, key)
			} else if c.Request == "" {
				for other := range seen {
					if strings.HasPrefix(other, c.Name+"/") {
						p.duplicate(at, c.Name)
					}
				}
			}
			seen.Insert(key)
		}
		if p.claims.Has(c.Name) {
			continue
		}
		missing := field.NotFound(at, c.Name)
		missing.Detail = "must be one of the names in pod.spec.resourceClaims"
		if len(p.claims) == 0 {
			missing.Detail += " which is empty"
		} else {
			missing.Detail += ": " + strings.Join(sets.List(p.claims), ", ")
		}
		p.add(missing)
	}
}

// overhead checks what a pod takes beside its containers.
func (p *podCheck) overhead(at *field.Path) {
	if p.spec.Overhead != nil {
		p.resources(&corev1.ResourceRequirements{Limits: p.spec.Overhead}, at, p.containerResourceName)
	}
}

// podResourceName checks the name of a resource that a pod asks for as a whole.
func (p *podCheck) podResourceName(at *field.Path, name corev1.ResourceName) {
	if p.resourceName(at, name) && !resourcehelper.IsSupportedPodLevelResource(name) {
		p.add(field.NotSupported(at, name, sets.List(resourcehelper.SupportedPodLevelResources())))
	}
}

// podResources checks what a pod asks for as a whole.
func (p *podCheck) podResources(spec *field.Path) {
	r, at := p.spec.Resources, spec.Child("resources")
	switch {
	case r == nil:
		return
	case p.spec.OS != nil && p.spec.OS.Name == corev1.Windows:
		p.forbidden(at, "may not be set for a windows pod")
		return
	}
	if r.Claims != nil {
		p.forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level")
	}
	p.resources(r, at, p.podResourceName)
	pod := &corev1.Pod{Spec: *p.spec}
	inNames(resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}), func(n corev1.ResourceName, all resource.Quantity) {
		if q, ok := r.Requests[n]; ok && all.Cmp(q) > 0 {
			p.invalid(at.Child("requests").Key(string(n)), q.String(), "must be greater than or equal to aggregate container requests of "+all.String())
		}
	})
	inNames(resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}), func(n corev1.ResourceName, all resource.Quantity) {
		if q, ok := r.Limits[n]; ok && hugePages(n) && all.Cmp(q) > 0 {
			p.invalid(at.Child("limits").Key(string(n)), q.String(), "must be greater than or equal to aggregate container limits of "+all.String())
		}
	})
	for i := range p.spec.Containers {
		inNames(p.spec.Containers[i].Resources.Limits, func(n corev1.ResourceName, limit resource.Quantity) {
			if q, ok := r.Limits[n]; ok && limit.Cmp(q) > 0 {
				p.invalid(at.Child("containers").Index(i).Key(string(n)).Child("limits"), limit.String(), "must be less than or equal to pod limits of "+q.String())
			}
		})
	}
}
