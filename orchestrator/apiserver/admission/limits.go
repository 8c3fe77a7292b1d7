package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/utils/ptr"
)

// LimitRanger gives containers the defaults of their namespace's limit ranges, and keeps pods and claims within their bounds.
type LimitRanger struct {
	Lookup Lookup
}

const limitRangerAnnotation = "kubernetes.io/limit-ranger"

var limitRanges = schema.GroupResource{Resource: "limitranges"}

func (p *LimitRanger) ranges(ctx context.Context, namespace string) (out []*corev1.LimitRange, err error) {
	all, err := p.Lookup.List(ctx, limitRanges, namespace)
	for _, o := range all {
		if r, ok := objectOf[*corev1.LimitRange](o); ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.LimitRange) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// Mutate fills in a new pod's requests and limits.
func (p *LimitRanger) Mutate(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	all, err := p.ranges(ctx, a.Namespace)
	if err != nil {
		return err
	}
	var notes []string
	for _, r := range all {
		defaults := defaultsOf(r)
		fill := func(containers []corev1.Container, what string) {
			for i := range containers {
				notes = append(notes, fillIn(&containers[i], what, &defaults)...)
			}
		}
		fill(pod.Spec.Containers, "container")
		fill(pod.Spec.InitContainers, "init container")
	}
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
	return nil
}

func defaultsOf(r *corev1.LimitRange) corev1.ResourceRequirements {
	d := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	for _, l := range r.Spec.Limits {
		if l.Type != corev1.LimitTypeContainer {
			continue
		}
		for k, v := range l.DefaultRequest {
			d.Requests[k] = v.DeepCopy()
		}
		for k, v := range l.Default {
			d.Limits[k] = v.DeepCopy()
		}
	}
	return d
}

// fillIn gives a container what it does not say itself, and returns what that was.
func fillIn(c *corev1.Container, what string, d *corev1.ResourceRequirements) (notes []string) {
	put := func(have *corev1.ResourceList, from corev1.ResourceList, part string) {
		var set []string
		for k, v := range from {
			if _, ok := (*have)[k]; ok {
				continue
			}
			if *have == nil {
				*have = corev1.ResourceList{}
			}
			(*have)[k] = v.DeepCopy()
			set = append(set, string(k))
		}
		if len(set) > 0 {
			slices.Sort(set)
			notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), part, what, c.Name))
		}
	}
	put(&c.Resources.Requests, d.Requests, "request")
	put(&c.Resources.Limits, d.Limits, "limit")
	return notes
}

// Validate checks pods and claims against all bounds.
func (p *LimitRanger) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation == Delete || a.Operation == Connect {
		return nil
	}
	var check func(l *corev1.LimitRangeItem) []error
	switch o := a.Object.(type) {
	case *corev1.Pod:
		if !a.isResource("", "pods", "") && !a.isResource("", "pods", "resize") || a.Operation == Update && a.Subresource == "" {
			return nil // what could change is checked when it changes
		}
		check = func(l *corev1.LimitRangeItem) []error { return checkPod(o, l) }
	case *corev1.PersistentVolumeClaim:
		if !a.isResource("", "persistentvolumeclaims", "") {
			return nil
		}
		check = func(l *corev1.LimitRangeItem) []error {
			if l.Type != corev1.LimitTypePersistentVolumeClaim {
				return nil
			}
			return bounds(l, o.Spec.Resources.Requests, nil, string(l.Type))
		}
	default:
		return nil
	}
	all, err := p.ranges(ctx, a.Namespace)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range all {
		for i := range r.Spec.Limits {
			errs = append(errs, check(&r.Spec.Limits[i])...)
		}
	}
	if len(errs) > 0 {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, utilerrors.NewAggregate(errs))
	}
	return nil
}

func checkPod(pod *corev1.Pod, l *corev1.LimitRangeItem) (errs []error) {
	switch l.Type {
	case corev1.LimitTypeContainer:
		for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
			errs = append(errs, bounds(l, c.Resources.Requests, c.Resources.Limits, string(l.Type))...)
		}
	case corev1.LimitTypePod:
		errs = bounds(l, podTotal(pod, func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Requests }),
			podTotal(pod, func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Limits }), string(l.Type))
	}
	return errs
}

// podTotal is what a pod takes: the sum over its containers and sidecars, or what an init container takes together with the
// sidecars that were started before it, if that is more; or what the pod says itself.
func podTotal(pod *corev1.Pod, part func(*corev1.ResourceRequirements) corev1.ResourceList) corev1.ResourceList {
	total, sidecars, most := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
			add(sidecars, part(&c.Resources))
			raise(most, sidecars)
			continue
		}
		one := corev1.ResourceList{}
		add(one, sidecars)
		add(one, part(&c.Resources))
		raise(most, one)
	}
	for i := range pod.Spec.Containers {
		add(total, part(&pod.Spec.Containers[i].Resources))
	}
	add(total, sidecars)
	raise(total, most)
	if r := pod.Spec.Resources; r != nil {
		for k, v := range part(r) {
			total[k] = v
		}
	}
	return total
}

func add(to, more corev1.ResourceList) {
	for k, v := range more {
		q := to[k]
		q.Add(v)
		to[k] = q
	}
}

func raise(to, at corev1.ResourceList) {
	for k, v := range at {
		if have, ok := to[k]; !ok || have.Cmp(v) < 0 {
			to[k] = v.DeepCopy()
		}
	}
}

// bounds checks requests and limits against one item of a limit range.
func bounds(l *corev1.LimitRangeItem, requests, limits corev1.ResourceList, what string) (errs []error) {
	for _, k := range sortedNames(l.Min) {
		least := l.Min[k]
		switch q, ok := requests[k]; {
		case !ok:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", k, what, least.String()))
		case q.Cmp(least) < 0:
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but request is %s", k, what, least.String(), q.String()))
		}
		if q, ok := limits[k]; ok && q.Cmp(least) < 0 {
			errs = append(errs, fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", k, what, least.String(), q.String()))
		}
	}
	for _, k := range sortedNames(l.Max) {
		errs = append(errs, below(l.Max[k], k, requests, limits, what)...)
	}
	for _, k := range sortedNames(l.MaxLimitRequestRatio) {
		errs = append(errs, ratio(l.MaxLimitRequestRatio[k], k, requests, limits, what)...)
	}
	return errs
}

func sortedNames(l corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(l))
	for k := range l {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

func below(most resource.Quantity, k corev1.ResourceName, requests, limits corev1.ResourceList, what string) (errs []error) {
	q, ok := limits[k]
	switch {
	case what == string(corev1.LimitTypePersistentVolumeClaim): // claims have no limits
	case !ok:
		errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", k, what, most.String()))
	case q.Cmp(most) > 0:
		errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", k, what, most.String(), q.String()))
	}
	if q, ok := requests[k]; ok && q.Cmp(most) > 0 {
		errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", k, what, most.String(), q.String()))
	}
	return errs
}

func ratio(most resource.Quantity, k corev1.ResourceName, requests, limits corev1.ResourceList, what string) []error {
	r, hasRequest := requests[k]
	l, hasLimit := limits[k]
	switch {
	case !hasRequest || r.IsZero():
		return []error{fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", k, what, most.String())}
	case !hasLimit || l.IsZero():
		return []error{fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", k, what, most.String())}
	}
	if have := l.AsApproximateFloat64() / r.AsApproximateFloat64(); have > most.AsApproximateFloat64() {
		return []error{fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", k, what, most.String(), have)}
	}
	return nil
}
