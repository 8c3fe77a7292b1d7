package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func resourceQuotaKind() *Kind {
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ResourceQuota"), Resource: "resourcequotas", Singular: "resourcequota",
		ShortNames: []string{"quota"}, Namespaced: true, Place: "resourcequotas",
		New: func() Object { return &corev1.ResourceQuota{} }, NewList: func() runtime.Object { return &corev1.ResourceQuotaList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true, ReturnDeleted: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
			textColumn("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."), ageColumn,
		},
	}, Rules[*corev1.ResourceQuota]{
		Default:  func(o *corev1.ResourceQuota) { roundQuantities(o.Spec.Hard, o.Status.Hard, o.Status.Used) },
		Spec:     func(o *corev1.ResourceQuota) any { return &o.Spec },
		Status:   func(o *corev1.ResourceQuota) any { return &o.Status },
		Warnings: warnOfQuota, Validate: validateResourceQuota, ValidateUpdate: validateResourceQuotaUpdate, Ratchets: true, ValidateStatus: validateResourceQuotaStatus,
		Row: resourceQuotaRow,
	})
}

// warnOfQuota tells who makes a quota of requests that limits cannot reach.
func warnOfQuota(o, old *corev1.ResourceQuota) (warnings []string) {
	if old != nil {
		return nil
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		requests, limits := "requests."+name, "limits."+name
		request, ok := o.Spec.Hard[requests]
		if !ok && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			if request, ok = o.Spec.Hard[name]; ok {
				requests = name
			}
		}
		if limit, limited := o.Spec.Hard[limits]; ok && limited && request.Cmp(limit) > 0 {
			warnings = append(warnings, fmt.Sprintf("ResourceQuota %s (%s) should be less than %s (%s)", requests, request.String(), limits, limit.String()))
		}
	}
	return warnings
}

func resourceQuotaRow(o *corev1.ResourceQuota, now time.Time) []any {
	var requests, limits []string
	for _, name := range slices.Sorted(maps.Keys(o.Status.Hard)) {
		used, hard := o.Status.Used[name], o.Status.Hard[name]
		cell := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(string(name), "limits.") {
			limits = append(limits, cell)
		} else {
			requests = append(requests, cell)
		}
	}
	return []any{o.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(o, now)}
}
