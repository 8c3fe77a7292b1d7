package crd

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func TestConflicts(t *testing.T) {
	w := start(t)
	first := simple("example.com", "widgets", "Widget")
	first.Spec.Names.ShortNames = []string{"wd"}
	w.establish(first)
	second := simple("example.com", "gadgets", "Widget")
	second.Spec.Names.ShortNames = []string{"wd"}
	w.define(second)
	c := w.await(second.Name, apiextensionsv1.NamesAccepted, "False")
	_, reason, text := condition(c, apiextensionsv1.NamesAccepted)
	require.Equal(t, "ListKindConflict", reason)
	require.Equal(t, `"WidgetList" is already in use`, text)
	_, reason, _ = condition(c, apiextensionsv1.Established)
	require.Equal(t, "NotAccepted", reason)
	require.Equal(t, "gadgets", c.Status.AcceptedNames.Plural)
	require.Empty(t, c.Status.AcceptedNames.Kind)
	w.establish(simple("other.example.com", "widgets", "Widget")) // another group

	// A definition that was never established goes at once; the names of one that goes are free.
	third := simple("example.com", "devices", "Widget")
	w.define(third)
	w.await(third.Name, apiextensionsv1.NamesAccepted, "False")
	_, _, err := w.defs.Delete(t.Context(), in(third.Name), &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.definition(third.Name) == nil }, 10*time.Second, 5*time.Millisecond)
	_, _, err = w.defs.Delete(t.Context(), in(first.Name), &metav1.DeleteOptions{})
	require.NoError(t, err)
	w.await(second.Name, apiextensionsv1.Established, "True")
	require.Equal(t, "gadgets", w.of("example.com/v1", "Widget").Kind.Resource)
}

func TestBuiltinNamesAreTaken(t *testing.T) {
	w := start(t)
	c := simple("coordination.k8s.io", "leases", "Lease")
	c.Annotations = map[string]string{apiextensionsv1.KubeAPIApprovedAnnotation: "unapproved, a test"}
	w.define(c)
	c = w.await(c.Name, apiextensionsv1.NamesAccepted, "False")
	status, reason, _ := condition(c, apiextensionsv1.KubernetesAPIApprovalPolicyConformant)
	require.Equal(t, []string{"False", "UnapprovedAnnotation"}, []string{status, reason})
	require.Nil(t, w.of("coordination.k8s.io/v1", "Lease"))
}

func TestEstablishedLater(t *testing.T) {
	delayed := func(c *Config) { c.EstablishDelay, c.Clock = 300*time.Millisecond, clock.Real }
	w := start(t, delayed)
	began := time.Now()
	c := simple("example.com", "widgets", "Widget")
	w.define(c)
	w.await(c.Name, apiextensionsv1.NamesAccepted, "True")
	require.Eventually(t, func() bool { return w.of("example.com/v1", "Widget") != nil }, 10*time.Second, time.Millisecond)
	w.await(c.Name, apiextensionsv1.Established, "True")
	require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
}

// Only what has changed is served anew.
func TestKindsStay(t *testing.T) {
	w := start(t)
	w.establish(simple("example.com", "widgets", "Widget"))
	k := w.of("example.com/v1", "Widget").Kind
	w.establish(simple("example.com", "gadgets", "Gadget"))
	require.NoError(t, w.change("widgets.example.com", func(c *apiextensionsv1.CustomResourceDefinition) { c.Labels = map[string]string{"a": "b"} }))
	w.establish(simple("example.com", "things", "Thing"))
	require.Same(t, k, w.of("example.com/v1", "Widget").Kind)
	require.NoError(t, w.change("widgets.example.com", func(c *apiextensionsv1.CustomResourceDefinition) {
		c.Spec.Versions[0].Served = false
		v := *c.Spec.Versions[0].DeepCopy()
		v.Name, v.Storage, v.Served = "v2", false, true
		c.Spec.Versions = append(c.Spec.Versions, v)
	}))
	require.Eventually(t, func() bool { return w.of("example.com/v2", "Widget") != nil }, 10*time.Second, 5*time.Millisecond)
	require.Nil(t, w.of("example.com/v1", "Widget"))
}

func TestDefinitionsAreKept(t *testing.T) {
	w := start(t)
	w.establish(simple("example.com", "widgets", "Widget"))
	_, err := w.of("example.com/v1", "Widget").Create(t.Context(), in(""), widget(t, "a", "{color: red}"))
	require.NoError(t, err)
	other := w.beside()
	require.NotNil(t, other.of("example.com/v1", "Widget"), "a manager that begins serves what there is")

	// Two managers do the same work without harm.
	_, _, err = w.defs.Delete(t.Context(), in("widgets.example.com"), &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return w.of("example.com/v1", "Widget") == nil && other.of("example.com/v1", "Widget") == nil
	}, 10*time.Second, 5*time.Millisecond)
	w.establish(simple("example.com", "widgets", "Widget"))
	_, err = w.of("example.com/v1", "Widget").Get(t.Context(), "ns", "a", "")
	require.True(t, apierrors.IsNotFound(err))
}

func TestReplacedDefinition(t *testing.T) {
	w := start(t)
	c := simple("example.com", "widgets", "Widget")
	for range 3 {
		w.establish(c.DeepCopy())
		r := w.of("example.com/v1", "Widget")
		_, err := r.Create(t.Context(), in(""), kinds.Object(widget(t, "a", "{color: red}")))
		require.NoError(t, err)
		_, _, err = w.defs.Delete(t.Context(), in(c.Name), &metav1.DeleteOptions{})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return w.definition(c.Name) == nil }, 10*time.Second, time.Millisecond)
	}
}
