package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/media"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// posted reads the body and the options of a creation of something that is not stored.
func (c *call) posted(gvk schema.GroupVersionKind, into runtime.Object) (*verbs.Target, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	var o metav1.CreateOptions
	if err := c.options(&o); err != nil {
		return nil, err
	}
	warnings, err := media.DecodeInto(body, c.r.Header.Get("Content-Type"), gvk, into, o.FieldValidation)
	if err != nil {
		return nil, err
	}
	c.warnAll(warnings)
	c.asked(gvk, into)
	return c.target(&o, o.FieldManager, o.FieldValidation, o.DryRun)
}

// admit asks admission about something that is not stored as it is.
func (c *call) admit(t *verbs.Target, gvk schema.GroupVersionKind, o runtime.Object) error {
	a := c.asking(t, gvk, o)
	if err := c.res.Admission.Mutate(c.ctx(), a); err != nil {
		return err
	}
	return c.res.Admission.Validate(c.ctx(), a)
}

// asking is what admission is asked about the creation of something that is not stored as it is.
func (c *call) asking(t *verbs.Target, gvk schema.GroupVersionKind, o runtime.Object) *admission.Attributes {
	return &admission.Attributes{
		Operation: admission.Create, Kind: c.res.Kind, ObjectKind: gvk, Subresource: c.info.Subresource, Namespace: t.Namespace, Name: t.Name,
		Object: o, Options: t.Options, DryRun: t.DryRun, User: t.User, Warn: t.Warn, Annotate: t.Annotate,
	}
}

// created is the answer to something that was done.
func (c *call) created() error {
	return c.any(http.StatusCreated, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated})
}

var bindingKind = corev1.SchemeGroupVersion.WithKind("Binding")

// bind puts a pod on a node.
func (c *call) bind() error {
	if c.info.Verb != "create" {
		return apierrors.NewMethodNotSupported(podResource, c.info.Verb)
	}
	b := &corev1.Binding{}
	t, err := c.posted(bindingKind, b)
	if err != nil {
		return err
	}
	if c.res == nil || c.res.Kind.Resource != "pods" { // the resource bindings
		c.res = c.s.table.Load().preferred[podResource]
	}
	if t.Name == "" {
		t.Name = b.Name
	}
	if b.Name != "" && b.Name != t.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("name in URL does not match name in Binding object: %s != %s", t.Name, b.Name))
	}
	if errs := validateBinding(b); len(errs) > 0 {
		return apierrors.NewInvalid(bindingKind.GroupKind(), t.Name, errs)
	}
	t.Subresource = "binding"
	if err := c.admit(t, bindingKind, b); err != nil {
		return err
	}
	_, err = c.res.Objects.Update(c.ctx(), t.Namespace, t.Name, func(it *objectstore.Item) (kinds.Object, error) {
		pod, err := bound(it.Object.(*corev1.Pod), b, c.shown.Now)
		if err == nil && t.DryRun {
			err = errDryRun
		}
		return pod, err
	})
	if err != nil && err != errDryRun { //nolint:errorlint // it is our own
		return err
	}
	return c.created()
}

var errDryRun = errors.New("dry run")

func validateBinding(b *corev1.Binding) (errs field.ErrorList) {
	at := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(at.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	return errs
}

// bound returns a pod that is on a binding's node.
func bound(pod *corev1.Pod, b *corev1.Binding, now time.Time) (*corev1.Pod, error) {
	conflict := func(format string, a ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, pod.Name, fmt.Errorf(format, a...))
	}
	switch {
	case b.UID != "" && b.UID != pod.UID:
		return nil, conflict("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, pod.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion:
		return nil, conflict("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, pod.ResourceVersion)
	case pod.DeletionTimestamp != nil:
		return nil, conflict("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return nil, conflict("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return nil, conflict("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod = pod.DeepCopy()
	pod.Spec.NodeName = b.Target.Name
	pod.Status.NominatedNodeName = ""
	for k, v := range b.Annotations {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, k, v)
	}
	for k, v := range b.Labels {
		metav1.SetMetaDataLabel(&pod.ObjectMeta, k, v)
	}
	setScheduled(pod, now)
	return pod, nil
}

// setScheduled notes in a pod's conditions that it has a node.
func setScheduled(pod *corev1.Pod, now time.Time) {
	setCondition(pod, now, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
}

// setCondition gives a pod a condition. The time is when its status became another.
func setCondition(pod *corev1.Pod, now time.Time, want corev1.PodCondition) {
	want.LastTransitionTime, want.ObservedGeneration = metav1.Time{Time: now.Truncate(time.Second)}, pod.Generation
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == want.Type {
			if c.Status == want.Status {
				want.LastTransitionTime = c.LastTransitionTime
			}
			*c = want
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, want)
}

var (
	evictionKind   = policyv1.SchemeGroupVersion.WithKind("Eviction")
	budgetResource = schema.GroupResource{Group: policyv1.GroupName, Resource: "poddisruptionbudgets"}
)

// evict deletes a pod if its disruption budget allows it.
func (c *call) evict() error {
	if c.info.Verb != "create" {
		return apierrors.NewMethodNotSupported(podResource, c.info.Verb)
	}
	e := &policyv1.Eviction{}
	t, err := c.posted(evictionKind, e)
	if err != nil {
		return err
	}
	if e.Name != "" && e.Name != t.Name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	o := e.DeleteOptions
	if o == nil {
		o = &metav1.DeleteOptions{}
	}
	t.DryRun = t.DryRun || len(o.DryRun) > 0
	if err := c.admit(t, evictionKind, e); err != nil {
		return err
	}
	pod, err := find[*corev1.Pod](c.ctx(), c.s.objects(), podResource, t.Namespace, t.Name)
	if err != nil {
		return err
	}
	if !ignoresBudget(pod) {
		if err := c.spend(pod, t.DryRun); err != nil {
			return err
		}
	}
	t.Subresource = ""
	if !t.DryRun {
		if o, err = c.disrupt(t, o); err != nil {
			return err
		}
	}
	if _, _, err = c.res.Delete(c.ctx(), t, o); err != nil {
		return err
	}
	return c.created()
}

// disrupt notes in a pod that it is being evicted, for those who judge its end. It returns the options of the deletion of the
// pod as it is then. Preconditions are held already by the pod that is noted in.
func (c *call) disrupt(t *verbs.Target, o *metav1.DeleteOptions) (*metav1.DeleteOptions, error) {
	it, err := c.res.Objects.Update(c.ctx(), t.Namespace, t.Name, func(it *objectstore.Item) (kinds.Object, error) {
		if err := c.res.Preconditions(it.Object, o.Preconditions); err != nil {
			return nil, err
		}
		pod := it.Object.DeepCopyObject().(*corev1.Pod)
		setCondition(pod, c.shown.Now, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		})
		return pod, nil
	})
	if err != nil || o.Preconditions == nil || o.Preconditions.ResourceVersion == nil {
		return o, err
	}
	o = o.DeepCopy()
	o.Preconditions.ResourceVersion = ptr.To(it.Object.GetResourceVersion())
	return o, nil
}

// ignoresBudget says that the loss of a pod is none: it has ended, or never began, or goes anyway.
func ignoresBudget(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

// spend takes a disruption from the budget of a pod. 429 if there is none left.
func (c *call) spend(pod *corev1.Pod, dryRun bool) error {
	budgets := c.s.table.Load().preferred[budgetResource]
	if budgets == nil {
		return nil
	}
	page, err := budgets.List(c.ctx(), objectstore.ListQuery{Namespace: pod.Namespace, ResourceVersion: "0"})
	if err != nil {
		return err
	}
	var mine []*policyv1.PodDisruptionBudget
	for _, it := range page.Items {
		b := it.Object.(*policyv1.PodDisruptionBudget)
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && s.Matches(labels.Set(pod.Labels)) {
			mine = append(mine, b)
		}
	}
	switch {
	case len(mine) == 0:
		return nil
	case len(mine) > 1:
		const text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
		return apierrors.NewInternalError(fmt.Errorf("%s", text))
	}
	_, err = budgets.Objects.Update(c.ctx(), pod.Namespace, mine[0].Name, func(it *objectstore.Item) (kinds.Object, error) {
		b, err := spent(it.Object.(*policyv1.PodDisruptionBudget), pod, c.shown.Now)
		if err == nil && dryRun {
			err = errDryRun
		}
		return b, err
	})
	if err == errDryRun { //nolint:errorlint // it is our own
		return nil
	}
	return err
}

// spent returns a budget from which a pod's disruption was taken.
func spent(b *policyv1.PodDisruptionBudget, pod *corev1.Pod, now time.Time) (*policyv1.PodDisruptionBudget, error) {
	refuse := func(cause, message string) error {
		e := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		e.ErrStatus.Details.Causes = append(e.ErrStatus.Details.Causes, metav1.StatusCause{Type: metav1.CauseType(cause), Message: message})
		return e
	}
	if b.Status.ObservedGeneration < b.Generation {
		e := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
		e.ErrStatus.Details.Causes = append(e.ErrStatus.Details.Causes, metav1.StatusCause{Type: "DisruptionBudget",
			Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name)})
		return nil, e
	}
	ready := false
	for _, c := range pod.Status.Conditions {
		ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}
	policy := policyv1.IfHealthyBudget
	if b.Spec.UnhealthyPodEvictionPolicy != nil {
		policy = *b.Spec.UnhealthyPodEvictionPolicy
	}
	if !ready && (policy == policyv1.AlwaysAllow || b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0) {
		return b, nil
	}
	if b.Status.DisruptionsAllowed <= 0 {
		return nil, refuse("DisruptionBudget", fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently",
			b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy))
	}
	b = b.DeepCopy()
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[pod.Name] = metav1.Time{Time: now}
	return b, nil
}
