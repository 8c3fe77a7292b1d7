package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

const (
	// highestPriority is the highest that a user may give; what is above is the system's.
	highestPriority = 1_000_000_000
	systemPrefix    = "system-"
)

// systemClasses are the classes above, with their values.
var systemClasses = map[string]int32{"system-cluster-critical": 2 * highestPriority, "system-node-critical": 2*highestPriority + 1000}

// schedulingKinds are those of scheduling.k8s.io.
func schedulingKinds() []*Kind {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return []*Kind{with(Kind{
		GroupVersionKind: schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"), Resource: "priorityclasses", Singular: "priorityclass",
		ShortNames: []string{"pc"}, Place: "priorityclasses",
		New: func() Object { return &schedulingv1.PriorityClass{} }, NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			{Name: "Value", Type: "integer", Description: doc["value"]},
			{Name: "Global-Default", Type: "boolean", Description: doc["globalDefault"]},
			ageColumn,
			{Name: "PreemptionPolicy", Type: "string", Description: doc["preemptionPolicy"]},
		},
	}, Rules[*schedulingv1.PriorityClass]{
		Default: func(o *schedulingv1.PriorityClass) {
			if o.PreemptionPolicy == nil {
				o.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
			}
		},
		Validate: validatePriorityClass,
		ValidateUpdate: func(o, old *schedulingv1.PriorityClass) (errs field.ErrorList) {
			if o.Value != old.Value {
				errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
			}
			if ptr.Deref(o.PreemptionPolicy, "") != ptr.Deref(old.PreemptionPolicy, "") {
				errs = append(errs, field.Invalid(field.NewPath("preemptionPolicy"), o.PreemptionPolicy, validation.FieldImmutableErrorMsg))
			}
			return errs
		},
		Row: func(o *schedulingv1.PriorityClass, now time.Time) []any {
			return []any{o.Name, int64(o.Value), o.GlobalDefault, age(o, now), string(ptr.Deref(o.PreemptionPolicy, ""))}
		},
	})}
}

func validatePriorityClass(o *schedulingv1.PriorityClass) (errs field.ErrorList) {
	value, system := systemClasses[o.Name]
	switch {
	case system && o.Value != value:
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), fmt.Sprintf("value of %s PriorityClass must be %d", o.Name, value)))
	case !system && strings.HasPrefix(o.Name, systemPrefix):
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
			"priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+o.Name+" is not a known system priority class"))
	case !system && o.Value > highestPriority:
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", highestPriority)))
	}
	policies := []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}
	if p := o.PreemptionPolicy; p != nil && !slices.Contains(policies, *p) {
		errs = append(errs, field.NotSupported(field.NewPath("preemptionPolicy"), *p, policies))
	}
	return errs
}
