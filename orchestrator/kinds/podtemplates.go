package kinds

import (
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func podTemplateKind() *Kind {
	return with(Kind{
		GroupVersionKind: core("PodTemplate"), Resource: "podtemplates", Singular: "podtemplate", Namespaced: true, Place: "podtemplates",
		New: func() Object { return &corev1.PodTemplate{} }, NewList: func() runtime.Object { return &corev1.PodTemplateList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true, ReturnDeleted: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Containers", "Names of each container in the template."),
			textColumn("Images", "Images referenced by each container in the template."),
			textColumn("Pod Labels", "The labels for the pod template."),
		},
	}, Rules[*corev1.PodTemplate]{
		Default: func(o *corev1.PodTemplate) { defaultTemplate(&o.Template) },
		Create:  func(o *corev1.PodTemplate) { prepareTemplate(&o.Template) },
		Update:  func(o, _ *corev1.PodTemplate) { prepareTemplate(&o.Template) },
		Validate: func(o *corev1.PodTemplate) field.ErrorList {
			var p problems
			p.template(field.NewPath("template"), &o.Template)
			return p.list
		},
		Spec: func(o *corev1.PodTemplate) any { return &o.Template },
		Row: func(o *corev1.PodTemplate, _ time.Time) []any {
			names, images := templateCells(&o.Template)
			return []any{o.Name, names, images, labels.FormatLabels(o.Template.Labels)}
		},
	})
}

const replicasField = "status.replicas"

func replicationControllerKind() *Kind {
	spec, status := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: core("ReplicationController"), Resource: "replicationcontrollers", Singular: "replicationcontroller",
		ShortNames: []string{"rc"}, Categories: []string{"all"}, Namespaced: true, Place: "controllers",
		New: func() Object { return &corev1.ReplicationController{} }, NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true, Orphan: true},
		FieldNames: []string{replicasField},
		Scale: &Scale{
			Replicas:    func(o Object) int32 { return ptr.Deref(o.(*corev1.ReplicationController).Spec.Replicas, 0) },
			SetReplicas: func(o Object, n int32) { o.(*corev1.ReplicationController).Spec.Replicas = &n },
			Observed:    func(o Object) int32 { return o.(*corev1.ReplicationController).Status.Replicas },
			Selector: func(o Object) string {
				return labels.Set(o.(*corev1.ReplicationController).Spec.Selector).AsSelector().String()
			},
		},
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn, countColumn("Desired", spec["replicas"]), countColumn("Current", status["replicas"]), countColumn("Ready", status["readyReplicas"]), ageColumn,
		}, podsColumns(spec["selector"])...),
	}, Rules[*corev1.ReplicationController]{
		Default: defaultReplicationController,
		Create:  func(o *corev1.ReplicationController) { prepareTemplate(o.Spec.Template) },
		Update:  func(o, _ *corev1.ReplicationController) { prepareTemplate(o.Spec.Template) },
		Spec:    func(o *corev1.ReplicationController) any { return &o.Spec },
		Status:  func(o *corev1.ReplicationController) any { return &o.Status },
		Fields: func(o *corev1.ReplicationController) map[string]string {
			return map[string]string{replicasField: strconv.Itoa(int(o.Status.Replicas))}
		},
		Validate: validateReplicationController, ValidateStatus: validateReplicationControllerStatus,
		Row: func(o *corev1.ReplicationController, now time.Time) []any {
			names, images := templateCells(ptr.To(ptr.Deref(o.Spec.Template, corev1.PodTemplateSpec{})))
			return []any{
				o.Name, int64(ptr.Deref(o.Spec.Replicas, 0)), int64(o.Status.Replicas), int64(o.Status.ReadyReplicas), age(o, now),
				names, images, labels.FormatLabels(o.Spec.Selector),
			}
		},
	})
}

// defaultReplicationController makes a controller select the pods of its template.
func defaultReplicationController(o *corev1.ReplicationController) {
	fill(&o.Spec.Replicas, defaultReplicas)
	t := o.Spec.Template
	if t == nil {
		return
	}
	defaultTemplate(t)
	if t.Labels == nil {
		return
	}
	if len(o.Spec.Selector) == 0 {
		o.Spec.Selector = maps.Clone(t.Labels)
	}
	if len(o.Labels) == 0 {
		o.Labels = maps.Clone(t.Labels)
	}
}

func validateReplicationController(o *corev1.ReplicationController) field.ErrorList {
	var p problems
	s, at := &o.Spec, field.NewPath("spec")
	p.notNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	if len(s.Selector) == 0 {
		p.required(at.Child("selector"), "")
	}
	if s.Replicas == nil {
		p.required(at.Child("replicas"), "")
	} else {
		p.notNegative(at.Child("replicas"), int64(*s.Replicas))
	}
	if s.Template == nil {
		p.required(at.Child("template"), "")
		return p.list
	}
	p.templateSelected(at.Child("template"), labels.Set(s.Selector).AsSelector(), s.Template)
	p.endless(at.Child("template"), s.Template, "ReplicationController")
	return p.list
}

func validateReplicationControllerStatus(o, _ *corev1.ReplicationController) field.ErrorList {
	var p problems
	s, at := &o.Status, field.NewPath("status")
	p.notNegative(at.Child("replicas"), int64(s.Replicas))
	p.notNegative(at.Child("fullyLabeledReplicas"), int64(s.FullyLabeledReplicas))
	p.notNegative(at.Child("readyReplicas"), int64(s.ReadyReplicas))
	p.notNegative(at.Child("availableReplicas"), int64(s.AvailableReplicas))
	p.notNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	p.notAbove(at.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than readyReplicas")
	return p.list
}
