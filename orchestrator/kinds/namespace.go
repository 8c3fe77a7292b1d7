package kinds

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func namespaceKind() *Kind {
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Namespace"), Resource: "namespaces", Singular: "namespace", ShortNames: []string{"ns"}, Place: "namespaces",
		New: func() Object { return &corev1.Namespace{} }, NewList: func() runtime.Object { return &corev1.NamespaceList{} },
		Verbs:      []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		NameErrors: validation.ValidateNamespaceName, Lifecycle: Lifecycle{Unconditional: true, ReturnDeleted: true},
		Subresources: []Subresource{partOf(Subresource{
			Name: "finalize", Kind: corev1.SchemeGroupVersion.WithKind("Namespace"), Verbs: []string{"update"},
		}, func(o, old *corev1.Namespace) { o.Status = *old.Status.DeepCopy() }, validateFinalize)},
		FieldNames: []string{"status.phase"},
		Columns:    []metav1.TableColumnDefinition{nameColumn, textColumn("Status", "The status of the namespace"), ageColumn},
	}, Rules[*corev1.Namespace]{
		Default: defaultNamespace,
		Create: func(o *corev1.Namespace) {
			if !slices.Contains(o.Spec.Finalizers, corev1.FinalizerKubernetes) {
				o.Spec.Finalizers = append(o.Spec.Finalizers, corev1.FinalizerKubernetes)
			}
		},
		Update:         func(o, old *corev1.Namespace) { o.Spec.Finalizers = slices.Clone(old.Spec.Finalizers) },
		Delete:         func(o *corev1.Namespace) { o.Status.Phase = corev1.NamespaceTerminating },
		Held:           func(o *corev1.Namespace) bool { return len(o.Spec.Finalizers) > 0 },
		Validate:       validateNamespace,
		ValidateStatus: validateNamespaceStatus,
		Spec:           func(o *corev1.Namespace) any { return &o.Spec },
		Status:         func(o *corev1.Namespace) any { return &o.Status },
		Fields: func(o *corev1.Namespace) map[string]string {
			return map[string]string{"status.phase": string(o.Status.Phase)}
		},
		Row: func(o *corev1.Namespace, now time.Time) []any {
			return []any{o.Name, string(o.Status.Phase), age(o, now)}
		},
	})
}

// defaultNamespace labels a namespace with its name, so that selectors can name namespaces. Users cannot take that away.
func defaultNamespace(o *corev1.Namespace) {
	if o.Name != "" {
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[corev1.LabelMetadataName] = o.Name
	}
	if o.Status.Phase == "" {
		o.Status.Phase = corev1.NamespaceActive
	}
}

func validateNamespace(o *corev1.Namespace) field.ErrorList {
	var p problems
	for _, f := range o.Spec.Finalizers {
		p.finalizer(field.NewPath("spec", "finalizers"), string(f))
	}
	return p.list
}

func validateFinalize(o, _ *corev1.Namespace) field.ErrorList {
	var p problems
	for i, f := range o.Spec.Finalizers {
		p.finalizer(field.NewPath("spec", "finalizers").Index(i), string(f))
	}
	return p.list
}

// finalizer checks the name of what holds an object. Names without a prefix are those of Kubernetes.
func (p *problems) finalizer(at *field.Path, name string) {
	p.qualifiedName(at, name)
	standard := []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}
	if !slices.Contains([]byte(name), '/') && !slices.Contains(standard, name) {
		p.invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified")
	}
}

func validateNamespaceStatus(o, _ *corev1.Namespace) field.ErrorList {
	var p problems
	phase := field.NewPath("status", "Phase") // as Kubernetes spells it
	switch {
	case o.DeletionTimestamp.IsZero() && o.Status.Phase != corev1.NamespaceActive:
		p.invalid(phase, o.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
	case !o.DeletionTimestamp.IsZero() && o.Status.Phase != corev1.NamespaceTerminating:
		p.invalid(phase, o.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
	return p.list
}
