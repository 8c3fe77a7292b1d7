package extension

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	registration "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// client is a typed client of objects T, and lists L of them.
type client[T, L any] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
	DeleteCollection(context.Context, metav1.DeleteOptions, metav1.ListOptions) error
	Get(context.Context, string, metav1.GetOptions) (T, error)
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
	Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (T, error)
}

// operations is what API operations are tried with.
type operations[T any] struct {
	resource string
	made     T             // is created three times
	patch    string        // of the spec, in JSON
	patched  func(T) bool  // says whether the spec is as the patch has it
	undo     func(T)       // makes the spec what it was
	status   func(T) error // tries the status of one, which may be nil
}

type apiObject interface {
	runtime.Object
	metav1.Object
}

// try creates, reads, lists, watches, patches, updates and deletes objects of admissionregistration.k8s.io/v1.
func try[T apiObject, L runtime.Object](t *testing.T, e *conformance.Env, c client[T, L], o operations[T]) {
	discovers(t, e, registration.SchemeGroupVersion, o.resource)
	o.made.SetGenerateName("example-")
	o.made.SetLabels(map[string]string{"example": e.NS})
	mine := metav1.ListOptions{LabelSelector: "example=" + e.NS}
	t.Cleanup(func() { _ = c.DeleteCollection(context.Background(), metav1.DeleteOptions{}, mine) })
	var made T
	for range 3 {
		var err error
		made, err = c.Create(e.Ctx, o.made, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	read, err := c.Get(e.Ctx, made.GetName(), metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, made, read)
	list := listed(t, e, c, mine, 3)

	events, err := c.Watch(e.Ctx, metav1.ListOptions{LabelSelector: mine.LabelSelector, ResourceVersion: list})
	require.NoError(t, err)
	defer events.Stop()
	patched, err := c.Patch(e.Ctx, made.GetName(), types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}},"spec":`+o.patch+`}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "true", patched.GetAnnotations()["patched"])
	require.True(t, o.patched(patched))
	require.NotEqual(t, read.GetResourceVersion(), patched.GetResourceVersion())
	require.Equal(t, read.GetGeneration()+1, patched.GetGeneration())

	var updated T
	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		now, err := c.Get(e.Ctx, made.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		now.SetAnnotations(map[string]string{"patched": "true", "updated": "true"})
		o.undo(now)
		updated, err = c.Update(e.Ctx, now, metav1.UpdateOptions{})
		return err
	}))
	require.Equal(t, "true", updated.GetAnnotations()["updated"])
	require.False(t, o.patched(updated))
	for _, want := range []T{patched, updated} {
		event := next(t, events)
		require.Equal(t, watch.Modified, event.Type)
		require.Equal(t, want, event.Object)
	}
	if o.status != nil {
		require.NoError(t, o.status(updated))
	}
	remove(t, e, c, made.GetName(), mine)
}

// next is the next event of a watch.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case event, ok := <-w.ResultChan():
		require.True(t, ok, "the watch ended")
		return event
	case <-time.After(limit):
	}
	require.FailNow(t, "no event")
	return watch.Event{}
}

// listed lists objects, of which there are n, and returns the list's version.
func listed[T apiObject, L runtime.Object](t *testing.T, e *conformance.Env, c client[T, L], o metav1.ListOptions, n int) string {
	t.Helper()
	list, err := c.List(e.Ctx, o)
	require.NoError(t, err)
	items, err := meta.ExtractList(list)
	require.NoError(t, err)
	require.Len(t, items, n)
	access, err := meta.ListAccessor(list)
	require.NoError(t, err)
	return access.GetResourceVersion()
}

// remove deletes one of three objects, and then the others.
func remove[T apiObject, L runtime.Object](t *testing.T, e *conformance.Env, c client[T, L], name string, mine metav1.ListOptions) {
	t.Helper()
	require.NoError(t, c.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	_, err := c.Get(e.Ctx, name, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), err)
	listed(t, e, c, mine, 2)
	require.NoError(t, c.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, mine))
	listed(t, e, c, mine, 0)
}

func mutatingPolicyOperations(t *testing.T, e *conformance.Env) {
	try(t, e, e.Client.AdmissionregistrationV1().MutatingAdmissionPolicies(), operations[*registration.MutatingAdmissionPolicy]{
		resource: "mutatingadmissionpolicies",
		made: &registration.MutatingAdmissionPolicy{Spec: registration.MutatingAdmissionPolicySpec{
			ReinvocationPolicy: registration.NeverReinvocationPolicy, MatchConstraints: about("nowhere"),
			Mutations: []registration.Mutation{{
				PatchType:          registration.PatchTypeApplyConfiguration,
				ApplyConfiguration: &registration.ApplyConfiguration{Expression: "Object{spec: Object.spec{replicas: 100}}"},
			}},
		}},
		patch: `{"reinvocationPolicy":"IfNeeded"}`,
		patched: func(p *registration.MutatingAdmissionPolicy) bool {
			return p.Spec.ReinvocationPolicy == registration.IfNeededReinvocationPolicy
		},
		undo: func(p *registration.MutatingAdmissionPolicy) {
			p.Spec.ReinvocationPolicy = registration.NeverReinvocationPolicy
		},
	})
}

// policyName is one that no policy has.
const policyName = "replicalimit-policy.example.com"

func mutatingBindingOperations(t *testing.T, e *conformance.Env) {
	try(t, e, e.Client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings(), operations[*registration.MutatingAdmissionPolicyBinding]{
		resource: "mutatingadmissionpolicybindings",
		made:     &registration.MutatingAdmissionPolicyBinding{Spec: registration.MutatingAdmissionPolicyBindingSpec{PolicyName: policyName}},
		patch:    `{"policyName":"new-policy.example.com"}`,
		patched: func(b *registration.MutatingAdmissionPolicyBinding) bool {
			return b.Spec.PolicyName == "new-policy.example.com"
		},
		undo: func(b *registration.MutatingAdmissionPolicyBinding) { b.Spec.PolicyName = policyName },
	})
}

func validatingBindingOperations(t *testing.T, e *conformance.Env) {
	try(t, e, e.Client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings(), operations[*registration.ValidatingAdmissionPolicyBinding]{
		resource: "validatingadmissionpolicybindings",
		made: &registration.ValidatingAdmissionPolicyBinding{Spec: registration.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: policyName, ValidationActions: []registration.ValidationAction{registration.Deny},
		}},
		patch: `{"validationActions":["Warn"]}`,
		patched: func(b *registration.ValidatingAdmissionPolicyBinding) bool {
			return len(b.Spec.ValidationActions) == 1 && b.Spec.ValidationActions[0] == registration.Warn
		},
		undo: func(b *registration.ValidatingAdmissionPolicyBinding) {
			b.Spec.ValidationActions = []registration.ValidationAction{registration.Deny}
		},
	})
}

func validatingPolicyOperations(t *testing.T, e *conformance.Env) {
	discovers(t, e, registration.SchemeGroupVersion, "validatingadmissionpolicies/status")
	c := e.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	try(t, e, c, operations[*registration.ValidatingAdmissionPolicy]{
		resource: "validatingadmissionpolicies",
		made: &registration.ValidatingAdmissionPolicy{Spec: registration.ValidatingAdmissionPolicySpec{
			Validations: []registration.Validation{{Expression: "object.spec.replicas <= 100"}}, MatchConstraints: about("nowhere"),
		}},
		patch: `{"failurePolicy":"Ignore"}`,
		patched: func(p *registration.ValidatingAdmissionPolicy) bool {
			return *p.Spec.FailurePolicy == registration.Ignore
		},
		undo: func(p *registration.ValidatingAdmissionPolicy) { p.Spec.FailurePolicy = ptr.To(registration.Fail) },
		status: func(p *registration.ValidatingAdmissionPolicy) error {
			gvr := registration.SchemeGroupVersion.WithResource("validatingadmissionpolicies")
			read, err := e.Dynamic(t).Resource(gvr).Get(e.Ctx, p.Name, metav1.GetOptions{}, "status")
			if err != nil {
				return err
			}
			require.Equal(t, registration.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"), read.GroupVersionKind())
			require.Equal(t, p.UID, read.GetUID())
			patch := `{"status":{"conditions":[{"type":"PatchStatusFailed","status":"False","reason":"e2e","message":"m","lastTransitionTime":"2024-01-01T00:00:00Z"}]}}`
			patched, err := c.Patch(e.Ctx, p.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
			if err != nil {
				return err
			}
			require.True(t, meta.IsStatusConditionFalse(patched.Status.Conditions, "PatchStatusFailed"))
			patched.Status.Conditions = append(patched.Status.Conditions, metav1.Condition{
				Type: "StatusUpdateFailed", Status: metav1.ConditionFalse, Reason: "E2E", Message: "m", LastTransitionTime: metav1.Now(),
			})
			updated, err := c.UpdateStatus(e.Ctx, patched, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			require.True(t, meta.IsStatusConditionFalse(updated.Status.Conditions, "StatusUpdateFailed"))
			return nil
		},
	})
}
