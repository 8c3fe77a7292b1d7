package extension

import (
	"context"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	registration "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// configurations are behaviours of webhook configurations.
func configurations() conformance.Behaviours {
	return conformance.Behaviours{
		"AdmissionWebhook should include webhook resources in discovery documents":                                     webhookDiscovery,
		"AdmissionWebhook listing mutating webhooks should work":                                                       listMutating,
		"AdmissionWebhook listing validating webhooks should work":                                                     listValidating,
		"AdmissionWebhook patching/updating a mutating webhook should work":                                            changeMutating,
		"AdmissionWebhook patching/updating a validating webhook should work":                                          changeValidating,
		"AdmissionWebhook should be able to create and update mutating webhook configurations with match conditions":   mutatingConditions,
		"AdmissionWebhook should be able to create and update validating webhook configurations with match conditions": validatingConditions,
		"AdmissionWebhook should reject mutating webhook configurations with invalid match conditions":                 rejectMutating,
		"AdmissionWebhook should reject validating webhook configurations with invalid match conditions":               rejectValidating,
	}
}

func webhookDiscovery(t *testing.T, e *conformance.Env) {
	discovers(t, e, registration.SchemeGroupVersion, "mutatingwebhookconfigurations", "validatingwebhookconfigurations")
}

// many is how many configurations are listed.
const many = 10

func listMutating(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	c := e.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	for i := range many {
		made, err := c.Create(e.Ctx, &registration.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: h.label + "-" + strconv.Itoa(i), Labels: map[string]string{"list": h.label}},
			Webhooks:   []registration.MutatingWebhook{h.mutating("mutate", "/mutating-configmaps", rules("configmaps", registration.Create)), h.mutatingMarker()},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	}
	mine := metav1.ListOptions{LabelSelector: "list=" + h.label}
	list, err := c.List(e.Ctx, mine)
	require.NoError(t, err)
	require.Len(t, list.Items, many)
	h.wait()
	h.mutates(true)
	require.NoError(t, c.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, mine))
	list, err = c.List(e.Ctx, mine)
	require.NoError(t, err)
	require.Empty(t, list.Items)
	h.mutates(false)
}

func listValidating(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	c := e.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	for i := range many {
		made, err := c.Create(e.Ctx, &registration.ValidatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: h.label + "-" + strconv.Itoa(i), Labels: map[string]string{"list": h.label}},
			Webhooks:   []registration.ValidatingWebhook{h.validating("deny", "/configmaps", rules("configmaps", registration.Create)), h.validatingMarker()},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	}
	mine := metav1.ListOptions{LabelSelector: "list=" + h.label}
	list, err := c.List(e.Ctx, mine)
	require.NoError(t, err)
	require.Len(t, list.Items, many)
	h.wait()
	h.denies(true)
	require.NoError(t, c.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, mine))
	list, err = c.List(e.Ctx, mine)
	require.NoError(t, err)
	require.Empty(t, list.Items)
	h.denies(false)
}

// onCreation makes the first webhook of a configuration be about creations.
const onCreation = `[{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]`

func changeMutating(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	made := h.mutate("", h.mutating("mutate", "/mutating-configmaps", rules("configmaps", registration.Create)))
	h.mutates(true)
	c := e.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	made.Webhooks[0].Rules[0].Operations = []registration.OperationType{registration.Update}
	made, err := c.Update(e.Ctx, made, metav1.UpdateOptions{})
	require.NoError(t, err)
	h.mutates(false)
	again, err := c.Patch(e.Ctx, made.Name, types.JSONPatchType, []byte(onCreation), metav1.PatchOptions{})
	require.NoError(t, err)
	require.NotEqual(t, made.ResourceVersion, again.ResourceVersion)
	require.Equal(t, made.Generation+1, again.Generation)
	h.mutates(true)
}

func changeValidating(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	made := h.validate("", h.validating("deny", "/configmaps", rules("configmaps", registration.Create)))
	h.denies(true)
	c := e.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	made.Webhooks[0].Rules[0].Operations = []registration.OperationType{registration.Update}
	made, err := c.Update(e.Ctx, made, metav1.UpdateOptions{})
	require.NoError(t, err)
	h.denies(false)
	again, err := c.Patch(e.Ctx, made.Name, types.JSONPatchType, []byte(onCreation), metav1.PatchOptions{})
	require.NoError(t, err)
	require.NotEqual(t, made.ResourceVersion, again.ResourceVersion)
	require.Equal(t, made.Generation+1, again.Generation)
	h.denies(true)
}

func condition(name, expression string) registration.MatchCondition {
	return registration.MatchCondition{Name: name, Expression: expression}
}

var (
	oneCondition  = []registration.MatchCondition{condition("expression-1", "object.metadata.namespace == 'production'")}
	twoConditions = append(oneCondition[:1:1], condition("expression-2", "object.metadata.namespace == 'staging'"))
	badConditions = []registration.MatchCondition{condition("invalid-expression-1", "... [] bad expression")}
)

func mutatingConditions(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	w := h.mutating("mutate", "/mutating-configmaps", rules("configmaps", registration.Create))
	w.MatchConditions = oneCondition
	name := h.mutate("", w).Name
	c := e.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	got, err := c.Get(e.Ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, oneCondition, got.Webhooks[0].MatchConditions)
	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if got, err = c.Get(e.Ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		got.Webhooks[0].MatchConditions = twoConditions
		_, err = c.Update(e.Ctx, got, metav1.UpdateOptions{})
		return err
	}))
	got, err = c.Get(e.Ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, twoConditions, got.Webhooks[0].MatchConditions)
}

func validatingConditions(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	w := h.validating("deny", "/always-deny", rules("configmaps", registration.Create))
	w.MatchConditions = oneCondition
	name := h.validate("", w).Name
	c := e.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	got, err := c.Get(e.Ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, oneCondition, got.Webhooks[0].MatchConditions)
	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if got, err = c.Get(e.Ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		got.Webhooks[0].MatchConditions = twoConditions
		_, err = c.Update(e.Ctx, got, metav1.UpdateOptions{})
		return err
	}))
	got, err = c.Get(e.Ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, twoConditions, got.Webhooks[0].MatchConditions)
}

func rejectMutating(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	w := h.mutating("mutate", "/mutating-configmaps", rules("configmaps", registration.Create))
	w.MatchConditions = badConditions
	_, err := e.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(e.Ctx, &registration.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: h.label}, Webhooks: []registration.MutatingWebhook{w},
	}, metav1.CreateOptions{})
	require.ErrorContains(t, err, "compilation failed")
}

func rejectValidating(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	w := h.validating("deny", "/always-deny", rules("configmaps", registration.Create))
	w.MatchConditions = badConditions
	_, err := e.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(e.Ctx, &registration.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: h.label}, Webhooks: []registration.ValidatingWebhook{w},
	}, metav1.CreateOptions{})
	require.ErrorContains(t, err, "compilation failed")
}
