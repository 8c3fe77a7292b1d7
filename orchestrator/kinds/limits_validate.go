package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateLimitRange(o *corev1.LimitRange) field.ErrorList {
	var p problems
	seen := map[corev1.LimitType]bool{}
	for i := range o.Spec.Limits {
		l, at := &o.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		p.limitType(at.Child("type"), l.Type)
		unique(&p, seen, at.Child("type"), l.Type)
		p.limit(at, l)
	}
	return p.list
}

func (p *problems) limitType(at *field.Path, t corev1.LimitType) {
	if messages := utilvalidation.IsQualifiedName(string(t)); len(messages) > 0 {
		p.each(at, t, messages)
		return
	}
	standard := []corev1.LimitType{corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim}
	if !strings.Contains(string(t), "/") && !slices.Contains(standard, t) {
		p.invalid(at, t, "must be a standard limit type or fully qualified")
	}
}

const notForPods = "may not be specified when `type` is 'Pod'"

// limitOf is what a limit says of one resource; nil is nothing.
type limitOf struct{ min, max, normal, request, ratio *resource.Quantity }

func (p *problems) limit(at *field.Path, l *corev1.LimitRangeItem) {
	of := map[corev1.ResourceName]*limitOf{}
	collect := func(part string, list corev1.ResourceList, put func(o *limitOf, q *resource.Quantity)) {
		inNames(list, func(name corev1.ResourceName, q resource.Quantity) {
			if at := at.Child(part).Key(string(name)); l.Type == corev1.LimitTypePod || l.Type == corev1.LimitTypeContainer {
				p.containerResourceName(at, name)
			} else {
				p.resourceName(at, name)
			}
			if of[name] == nil {
				of[name] = &limitOf{}
			}
			put(of[name], &q)
		})
	}
	collect("max", l.Max, func(o *limitOf, q *resource.Quantity) { o.max = q })
	collect("min", l.Min, func(o *limitOf, q *resource.Quantity) { o.min = q })
	if l.Type == corev1.LimitTypePod {
		if len(l.Default) > 0 {
			p.forbidden(at.Child("default"), notForPods)
		}
		if len(l.DefaultRequest) > 0 {
			p.forbidden(at.Child("defaultRequest"), notForPods)
		}
	} else {
		collect("default", l.Default, func(o *limitOf, q *resource.Quantity) { o.normal = q })
		collect("defaultRequest", l.DefaultRequest, func(o *limitOf, q *resource.Quantity) { o.request = q })
	}
	if l.Type == corev1.LimitTypePersistentVolumeClaim {
		_, min := l.Min[corev1.ResourceStorage]
		if _, max := l.Max[corev1.ResourceStorage]; !min && !max {
			p.required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided")
		}
	}
	collect("maxLimitRequestRatio", l.MaxLimitRequestRatio, func(o *limitOf, q *resource.Quantity) { o.ratio = q })
	for _, name := range slices.Sorted(maps.Keys(of)) {
		p.limitOrder(at, name, of[name])
		p.limitRatio(at.Child("maxLimitRequestRatio").Key(string(name)), of[name])
	}
}

// limitOrder checks that what a limit says of a resource does not contradict itself.
func (p *problems) limitOrder(at *field.Path, name corev1.ResourceName, o *limitOf) {
	for _, c := range []struct {
		low, high         *resource.Quantity
		part              string
		lowName, highName string
		blamed            *resource.Quantity
	}{
		{o.min, o.max, "min", "min value", "max value", o.min},
		{o.min, o.request, "defaultRequest", "min value", "default request value", o.request},
		{o.request, o.max, "defaultRequest", "default request value", "max value", o.request},
		{o.request, o.normal, "defaultRequest", "default request value", "default limit value", o.request},
		{o.min, o.normal, "default", "min value", "default value", o.min},
		{o.normal, o.max, "default", "default value", "max value", o.max},
	} {
		if c.low != nil && c.high != nil && c.low.Cmp(*c.high) > 0 {
			p.invalid(at.Child(c.part).Key(string(name)), *c.blamed, fmt.Sprintf("%s %s is greater than %s %s", c.lowName, c.low, c.highName, c.high))
		}
	}
	if !overcommittable(name) && o.normal != nil && o.request != nil && o.normal.Cmp(*o.request) != 0 {
		p.invalid(at.Child("defaultRequest").Key(string(name)), *o.request,
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", o.normal, o.request, name))
	}
}

func (p *problems) limitRatio(at *field.Path, o *limitOf) {
	if o.ratio == nil {
		return
	}
	if o.ratio.Cmp(resource.MustParse("1")) < 0 {
		p.invalid(at, *o.ratio, fmt.Sprintf("ratio %s is less than 1", o.ratio))
	}
	if o.min == nil || o.max == nil {
		return
	}
	ratio, min, max := float64(o.ratio.Value()), o.min.Value(), o.max.Value()
	if o.ratio.Value() < resource.MaxMilliValue && min < resource.MaxMilliValue && max < resource.MaxMilliValue {
		ratio, min, max = float64(o.ratio.MilliValue())/1000, o.min.MilliValue(), o.max.MilliValue()
	}
	if most := float64(max) / float64(min); ratio > most {
		p.invalid(at, *o.ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", o.ratio, most))
	}
}
