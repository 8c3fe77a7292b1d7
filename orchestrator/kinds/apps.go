package kinds

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

const (
	defaultReplicas         = 1
	defaultRevisions        = 10
	defaultProgressDeadline = 600 // seconds
)

// appsKinds are those of apps.
func appsKinds() []*Kind {
	return []*Kind{controllerRevisionKind(), daemonSetKind(), deploymentKind(), replicaSetKind(), statefulSetKind()}
}

// workload is what the kinds of apps have in common that run pods.
func workload(kind, resource, singular, short string) Kind {
	return Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind(kind), Resource: resource, Singular: singular,
		ShortNames: []string{short}, Categories: []string{"all"}, Namespaced: true, Place: resource,
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
	}
}

func deploymentKind() *Kind {
	doc := appsv1.DeploymentStatus{}.SwaggerDoc()
	k := workload("Deployment", "deployments", "deployment", "deploy")
	k.New, k.NewList = func() Object { return &appsv1.Deployment{} }, func() runtime.Object { return &appsv1.DeploymentList{} }
	k.Columns = append([]metav1.TableColumnDefinition{
		nameColumn,
		textColumn("Ready", "Number of the pod with ready state"),
		textColumn("Up-to-date", doc["updatedReplicas"]),
		textColumn("Available", doc["availableReplicas"]),
		ageColumn,
	}, podsColumns(appsv1.DeploymentSpec{}.SwaggerDoc()["selector"])...)
	k.Scale = &Scale{
		Replicas:    func(o Object) int32 { return ptr.Deref(o.(*appsv1.Deployment).Spec.Replicas, 0) },
		SetReplicas: func(o Object, n int32) { o.(*appsv1.Deployment).Spec.Replicas = &n },
		Observed:    func(o Object) int32 { return o.(*appsv1.Deployment).Status.Replicas },
		Selector:    func(o Object) string { return selectorText(o.(*appsv1.Deployment).Spec.Selector) },
	}
	d := with(k, Rules[*appsv1.Deployment]{
		Default:  defaultDeployment,
		Create:   func(o *appsv1.Deployment) { prepareTemplate(&o.Spec.Template) },
		Update:   func(o, _ *appsv1.Deployment) { prepareTemplate(&o.Spec.Template) },
		Validate: validateDeployment, ValidateUpdate: validateDeploymentUpdate, ValidateStatus: validateDeploymentStatus,
		Warnings: func(o, old *appsv1.Deployment) []string { return podNameWarnings(o, old == nil) },
		Spec:     func(o *appsv1.Deployment) any { return &o.Spec }, Status: func(o *appsv1.Deployment) any { return &o.Status },
		UpdateStatus: func(o, old *appsv1.Deployment) { o.Labels = maps.Clone(old.Labels) },
		Row: func(o *appsv1.Deployment, now time.Time) []any {
			names, images := templateCells(&o.Spec.Template)
			return []any{
				o.Name, fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, ptr.Deref(o.Spec.Replicas, 0)), int64(o.Status.UpdatedReplicas),
				int64(o.Status.AvailableReplicas), age(o, now), names, images, selectorText(o.Spec.Selector),
			}
		},
	})
	d.Spec = annotated{d.Spec}
	return d
}

// annotated is a spec that annotations belong to: a Deployment's are copied to its ReplicaSets, so its controller has to know
// that they have changed.
type annotated struct{ Part }

func (p annotated) Same(a, b Object) bool {
	return p.Part.Same(a, b) && equality.Semantic.DeepEqual(a.GetAnnotations(), b.GetAnnotations())
}

func defaultDeployment(o *appsv1.Deployment) {
	defaultTemplate(&o.Spec.Template)
	fill(&o.Spec.Replicas, defaultReplicas)
	s := &o.Spec.Strategy
	fillZero(&s.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Type == appsv1.RollingUpdateDeploymentStrategyType {
		fill(&s.RollingUpdate, appsv1.RollingUpdateDeployment{})
		fill(&s.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		fill(&s.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	fill(&o.Spec.RevisionHistoryLimit, defaultRevisions)
	fill(&o.Spec.ProgressDeadlineSeconds, defaultProgressDeadline)
}

func replicaSetKind() *Kind {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	k := workload("ReplicaSet", "replicasets", "replicaset", "rs")
	k.New, k.NewList = func() Object { return &appsv1.ReplicaSet{} }, func() runtime.Object { return &appsv1.ReplicaSetList{} }
	k.Columns = append([]metav1.TableColumnDefinition{
		nameColumn,
		countColumn("Desired", spec["replicas"]),
		countColumn("Current", status["replicas"]),
		countColumn("Ready", status["readyReplicas"]),
		ageColumn,
	}, podsColumns(spec["selector"])...)
	k.Scale = &Scale{
		Replicas:    func(o Object) int32 { return ptr.Deref(o.(*appsv1.ReplicaSet).Spec.Replicas, 0) },
		SetReplicas: func(o Object, n int32) { o.(*appsv1.ReplicaSet).Spec.Replicas = &n },
		Observed:    func(o Object) int32 { return o.(*appsv1.ReplicaSet).Status.Replicas },
		Selector:    func(o Object) string { return selectorText(o.(*appsv1.ReplicaSet).Spec.Selector) },
	}
	return with(k, Rules[*appsv1.ReplicaSet]{
		Default: func(o *appsv1.ReplicaSet) {
			defaultTemplate(&o.Spec.Template)
			fill(&o.Spec.Replicas, defaultReplicas)
		},
		Create:   func(o *appsv1.ReplicaSet) { prepareTemplate(&o.Spec.Template) },
		Update:   func(o, _ *appsv1.ReplicaSet) { prepareTemplate(&o.Spec.Template) },
		Validate: validateReplicaSet, ValidateUpdate: validateReplicaSetUpdate, ValidateStatus: validateReplicaSetStatus,
		Warnings: func(o, old *appsv1.ReplicaSet) []string { return podNameWarnings(o, old == nil) },
		Spec:     func(o *appsv1.ReplicaSet) any { return &o.Spec }, Status: func(o *appsv1.ReplicaSet) any { return &o.Status },
		Row: func(o *appsv1.ReplicaSet, now time.Time) []any {
			names, images := templateCells(&o.Spec.Template)
			return []any{
				o.Name, int64(ptr.Deref(o.Spec.Replicas, 0)), int64(o.Status.Replicas), int64(o.Status.ReadyReplicas), age(o, now),
				names, images, metav1.FormatLabelSelector(o.Spec.Selector),
			}
		},
	})
}

func statefulSetKind() *Kind {
	k := workload("StatefulSet", "statefulsets", "statefulset", "sts")
	k.New, k.NewList = func() Object { return &appsv1.StatefulSet{} }, func() runtime.Object { return &appsv1.StatefulSetList{} }
	k.NameErrors = validation.NameIsDNSLabel
	k.Columns = append([]metav1.TableColumnDefinition{
		nameColumn,
		textColumn("Ready", "Number of the pod with ready state"),
		ageColumn,
	}, podsColumns("")[:2]...)
	k.Scale = &Scale{
		Replicas:    func(o Object) int32 { return ptr.Deref(o.(*appsv1.StatefulSet).Spec.Replicas, 0) },
		SetReplicas: func(o Object, n int32) { o.(*appsv1.StatefulSet).Spec.Replicas = &n },
		Observed:    func(o Object) int32 { return o.(*appsv1.StatefulSet).Status.Replicas },
		Selector:    func(o Object) string { return selectorText(o.(*appsv1.StatefulSet).Spec.Selector) },
	}
	return with(k, Rules[*appsv1.StatefulSet]{
		Default:  defaultStatefulSet,
		Create:   func(o *appsv1.StatefulSet) { prepareTemplate(&o.Spec.Template) },
		Update:   func(o, _ *appsv1.StatefulSet) { prepareTemplate(&o.Spec.Template) },
		Validate: validateStatefulSet, Ratchets: true, ValidateUpdate: validateStatefulSetUpdate, ValidateStatus: validateStatefulSetStatus,
		Warnings: statefulSetWarnings,
		Spec:     func(o *appsv1.StatefulSet) any { return &o.Spec }, Status: func(o *appsv1.StatefulSet) any { return &o.Status },
		Row: func(o *appsv1.StatefulSet, now time.Time) []any {
			names, images := templateCells(&o.Spec.Template)
			return []any{o.Name, fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, ptr.Deref(o.Spec.Replicas, 0)), age(o, now), names, images}
		},
	})
}

func defaultStatefulSet(o *appsv1.StatefulSet) {
	s := &o.Spec
	defaultTemplate(&s.Template)
	for i := range s.VolumeClaimTemplates {
		c := &s.VolumeClaimTemplates[i]
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
		defaultClaimSpec(&c.Spec)
		fillZero(&c.Status.Phase, corev1.ClaimPending)
		roundQuantities(c.Status.Capacity, c.Status.AllocatedResources)
	}
	fillZero(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		fill(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if u := s.UpdateStrategy.RollingUpdate; u != nil && s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		fill(&u.Partition, 0)
		fill(&u.MaxUnavailable, intstr.FromInt32(1))
	}
	fill(&s.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	fillZero(&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	fillZero(&s.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	fill(&s.Replicas, defaultReplicas)
	fill(&s.RevisionHistoryLimit, defaultRevisions)
}

func daemonSetKind() *Kind {
	doc := appsv1.DaemonSetStatus{}.SwaggerDoc()
	k := workload("DaemonSet", "daemonsets", "daemonset", "ds")
	k.New, k.NewList = func() Object { return &appsv1.DaemonSet{} }, func() runtime.Object { return &appsv1.DaemonSetList{} }
	k.Columns = append([]metav1.TableColumnDefinition{
		nameColumn,
		countColumn("Desired", doc["desiredNumberScheduled"]),
		countColumn("Current", doc["currentNumberScheduled"]),
		countColumn("Ready", doc["numberReady"]),
		countColumn("Up-to-date", doc["updatedNumberScheduled"]),
		countColumn("Available", doc["numberAvailable"]),
		textColumn("Node Selector", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
		ageColumn,
	}, podsColumns(appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"])...)
	return with(k, Rules[*appsv1.DaemonSet]{
		Default: defaultDaemonSet,
		Create: func(o *appsv1.DaemonSet) {
			prepareTemplate(&o.Spec.Template)
			setTemplateGeneration(o, max(1, templateGeneration(o)))
		},
		Update: func(o, old *appsv1.DaemonSet) {
			prepareTemplate(&o.Spec.Template)
			n := templateGeneration(old)
			if !equality.Semantic.DeepEqual(o.Spec.Template, old.Spec.Template) {
				n++
			}
			setTemplateGeneration(o, n)
		},
		Validate: validateDaemonSet, ValidateUpdate: validateDaemonSetUpdate, ValidateStatus: validateDaemonSetStatus,
		Spec: func(o *appsv1.DaemonSet) any { return &o.Spec }, Status: func(o *appsv1.DaemonSet) any { return &o.Status },
		UpdateStatus: func(o, old *appsv1.DaemonSet) { setTemplateGeneration(o, templateGeneration(old)) },
		Row: func(o *appsv1.DaemonSet, now time.Time) []any {
			names, images := templateCells(&o.Spec.Template)
			s := &o.Status
			return []any{
				o.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled),
				int64(s.NumberAvailable), labels.FormatLabels(o.Spec.Template.Spec.NodeSelector), age(o, now),
				names, images, metav1.FormatLabelSelector(o.Spec.Selector),
			}
		},
	})
}

func defaultDaemonSet(o *appsv1.DaemonSet) {
	defaultTemplate(&o.Spec.Template)
	u := &o.Spec.UpdateStrategy
	fillZero(&u.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if u.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		fill(&u.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		fill(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		fill(&u.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	fill(&o.Spec.RevisionHistoryLimit, defaultRevisions)
}

// templateGeneration is how often the template of a DaemonSet was changed. It was a field of its spec before apps/v1, and is an
// annotation since, which the server keeps.
func templateGeneration(o *appsv1.DaemonSet) int64 {
	n, _ := strconv.ParseInt(o.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	return n
}

func setTemplateGeneration(o *appsv1.DaemonSet, n int64) {
	o.Annotations = maps.Clone(o.Annotations)
	metav1.SetMetaDataAnnotation(&o.ObjectMeta, appsv1.DeprecatedTemplateGeneration, strconv.FormatInt(n, 10))
}

func controllerRevisionKind() *Kind {
	return with(Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("ControllerRevision"), Resource: "controllerrevisions", Singular: "controllerrevision",
		Namespaced: true, Place: "controllerrevisions",
		New: func() Object { return &appsv1.ControllerRevision{} }, NewList: func() runtime.Object { return &appsv1.ControllerRevisionList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Controller", "Controller of the object"),
			textColumn("Revision", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
			ageColumn,
		},
	}, Rules[*appsv1.ControllerRevision]{
		Validate: validateControllerRevision, ValidateUpdate: validateControllerRevisionUpdate,
		Row: func(o *appsv1.ControllerRevision, now time.Time) []any {
			return []any{o.Name, controllerCell(o), o.Revision, age(o, now)}
		},
	})
}
