package apps

import (
	"fmt"
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
		"DisruptionController should block an eviction until the PDB is updated to allow it":                                               budgetBlocks,
		"DisruptionController should observe PodDisruptionBudget status updated":                                                           budgetCounts,
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

// budgetCounts follows how many disruptions a budget allows.
func budgetCounts(t *testing.T, e *conformance.Env) {
	budgets := e.Client.PolicyV1().PodDisruptionBudgets(e.NS)
	create(t, e, budgets, budget("pdb", intstr.FromInt32(1), nil))
	create(t, e, e.Client.AppsV1().ReplicaSets(e.NS), replicaSet("set", 3, map[string]string{"name": "app"}))
	b := budgetAllows(t, e, 2)
	require.Equal(t, []int32{3, 1, 3}, []int32{b.Status.CurrentHealthy, b.Status.DesiredHealthy, b.Status.ExpectedPods})
	require.Equal(t, b.Generation, b.Status.ObservedGeneration)
}

// budgetAllows waits until the controller has seen a budget as it is, and allows so many disruptions.
func budgetAllows(t *testing.T, e *conformance.Env, disruptions int32) *policyv1.PodDisruptionBudget {
	t.Helper()
	return conformance.Until(t, e, fmt.Sprintf("%d disruptions are allowed", disruptions), func() (*policyv1.PodDisruptionBudget, error) {
		return e.Client.PolicyV1().PodDisruptionBudgets(e.NS).Get(e.Ctx, "pdb", metav1.GetOptions{})
	}, func(b *policyv1.PodDisruptionBudget) bool {
		return b.Status.ObservedGeneration >= b.Generation && b.Status.DisruptionsAllowed == disruptions && b.Status.CurrentHealthy == 3
	})
}

// budgetBlocks tries evictions under a budget that forbids them, allows one, forbids them again, and is gone.
func budgetBlocks(t *testing.T, e *conformance.Env) {
	budgets, pods := e.Client.PolicyV1().PodDisruptionBudgets(e.NS), e.Client.CoreV1().Pods(e.NS)
	create(t, e, budgets, budget("pdb", intstr.FromInt32(3), nil))
	create(t, e, e.Client.AppsV1().ReplicaSets(e.NS), replicaSet("set", 3, map[string]string{"name": "app"}))
	evict := func(allowed bool) {
		t.Helper()
		p := conformance.PodsRunning(t, e, "name=app", 3)[0]
		err := pods.EvictV1(e.Ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name}})
		if !allowed {
			require.True(t, apierrors.IsTooManyRequests(err), "%v", err)
			require.True(t, apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause), "%v", err)
			return
		}
		require.NoError(t, err)
		gone(t, e, p.UID)
		conformance.PodsRunning(t, e, "name=app", 3)
	}
	budgetAllows(t, e, 0)
	evict(false)
	conformance.Update(t, e, budgets, "pdb", func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = ptr.To(intstr.FromInt32(2)) })
	budgetAllows(t, e, 1)
	evict(true)
	_, err := budgets.Patch(e.Ctx, "pdb", types.MergePatchType, []byte(`{"spec":{"minAvailable":3}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	budgetAllows(t, e, 0)
	evict(false)
	require.NoError(t, budgets.Delete(e.Ctx, "pdb", metav1.DeleteOptions{}))
	evict(true)
}
