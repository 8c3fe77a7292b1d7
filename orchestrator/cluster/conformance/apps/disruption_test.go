package apps

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func disruptionBudgets() conformance.Behaviours {
	return conformance.Behaviours{
		"DisruptionController Listing PodDisruptionBudgets for all namespaces should list and delete a collection of PodDisruptionBudgets": budgetCollection,
		"DisruptionController should create a PodDisruptionBudget":                                                                         budgetLifecycle,
		"DisruptionController should update/patch PodDisruptionBudget status":                                                              budgetStatus,
	}
}

func budget(name string, min intstr.IntOrString, labels map[string]string) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &min, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "app"}}},
	}
}

func budgetCollection(t *testing.T, e *conformance.Env) {
	mine := e.Client.PolicyV1().PodDisruptionBudgets(e.NS)
	labels := map[string]string{"collection": e.NS}
	create(t, e, mine, budget("first", intstr.FromInt32(2), labels))
	create(t, e, mine, budget("second", intstr.FromString("1%"), labels))
	create(t, e, e.Client.PolicyV1().PodDisruptionBudgets(e.Namespace(t)), budget("third", intstr.FromInt32(2), labels))
	names := func(ns string) (out []string) {
		l, err := e.Client.PolicyV1().PodDisruptionBudgets(ns).List(e.Ctx, metav1.ListOptions{LabelSelector: "collection=" + e.NS})
		require.NoError(t, err)
		for _, b := range l.Items {
			out = append(out, b.Name)
		}
		return out
	}
	require.ElementsMatch(t, []string{"first", "second", "third"}, names(""))
	require.ElementsMatch(t, []string{"first", "second"}, names(e.NS))
	require.NoError(t, mine.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	require.Empty(t, names(e.NS))
	require.Equal(t, []string{"third"}, names(""))
}

func budgetLifecycle(t *testing.T, e *conformance.Env) {
	budgets := e.Client.PolicyV1().PodDisruptionBudgets(e.NS)
	made := create(t, e, budgets, budget("pdb", intstr.FromString("1%"), nil))
	updated := conformance.Update(t, e, budgets, "pdb", func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = ptr.To(intstr.FromString("2%")) })
	require.Equal(t, "2%", updated.Spec.MinAvailable.String())
	conformance.Newer(t, updated, made)
	patched, err := budgets.Patch(e.Ctx, "pdb", types.MergePatchType, []byte(`{"spec":{"minAvailable":"3%"}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "3%", patched.Spec.MinAvailable.String())
	conformance.Newer(t, patched, updated)
	require.NoError(t, budgets.Delete(e.Ctx, "pdb", metav1.DeleteOptions{}))
	_, err = budgets.Get(e.Ctx, "pdb", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func budgetStatus(t *testing.T, e *conformance.Env) {
	budgets := e.Client.PolicyV1().PodDisruptionBudgets(e.NS)
	create(t, e, budgets, budget("pdb", intstr.FromInt32(1), nil))
	create(t, e, e.Client.CoreV1().Pods(e.NS), pod("app", map[string]string{"name": "app"}))
	conformance.PodRunning(t, e, e.NS, "app")
	conformance.UpdateStatus(t, e, budgets, "pdb", func(b *policyv1.PodDisruptionBudget) {
		b.Status.DisruptedPods = map[string]metav1.Time{"app": metav1.NewTime(time.Now())}
	})
	b := &policyv1.PodDisruptionBudget{}
	require.NoError(t, e.Client.PolicyV1().RESTClient().Get().Namespace(e.NS).Resource("poddisruptionbudgets").Name("pdb").SubResource("status").Do(e.Ctx).Into(b))
	require.Contains(t, b.Status.DisruptedPods, "app")
	b, err := budgets.Patch(e.Ctx, "pdb", types.MergePatchType, []byte(`{"status":{"disruptedPods":null}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.Empty(t, b.Status.DisruptedPods)
}
