package kinds

import (
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func limitRangeKind() *Kind {
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("LimitRange"), Resource: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"},
		Namespaced: true, Place: "limitranges",
		New: func() Object { return &corev1.LimitRange{} }, NewList: func() runtime.Object { return &corev1.LimitRangeList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true, CreateOnUpdate: true},
		Columns: []metav1.TableColumnDefinition{nameColumn, createdColumn},
	}, Rules[*corev1.LimitRange]{
		Default: func(o *corev1.LimitRange) {
			for i := range o.Spec.Limits {
				defaultLimit(&o.Spec.Limits[i])
			}
		},
		Validate: validateLimitRange,
		Create:   func(o *corev1.LimitRange) { o.Name = orText(o.Name, uuid.NewString()) },
		Row:      func(o *corev1.LimitRange, _ time.Time) []any { return []any{o.Name, created(o)} },
	})
}

// defaultLimit derives what containers get from what they may have.
func defaultLimit(l *corev1.LimitRangeItem) {
	if l.Type == corev1.LimitTypeContainer {
		addMissing(&l.Default, l.Max)
		addMissing(&l.DefaultRequest, l.Default)
		addMissing(&l.DefaultRequest, l.Min)
	}
	roundQuantities(l.Max, l.Min, l.Default, l.DefaultRequest, l.MaxLimitRequestRatio)
}

func addMissing(to *corev1.ResourceList, from corev1.ResourceList) {
	if *to == nil {
		*to = corev1.ResourceList{}
	}
	for name, q := range from {
		if _, ok := (*to)[name]; !ok {
			(*to)[name] = q.DeepCopy()
		}
	}
}
