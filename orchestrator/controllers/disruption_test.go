package controllers

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// scalesOf has deployments of these sizes.
func scalesOf(sizes map[string]int32) Scales {
	c := &scalefake.FakeScaleClient{}
	c.AddReactor("get", "deployments", func(a clienttesting.Action) (bool, runtime.Object, error) {
		name := a.(clienttesting.GetAction).GetName()
		return true, &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: autoscalingv1.ScaleSpec{Replicas: sizes[name]}}, nil
	})
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{appsv1.SchemeGroupVersion})
	m.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	return Scales{Client: c, Mapper: m}
}

func deploymentPods(n, ready int) (out []runtime.Object) {
	out = append(out, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d-1", UID: "rs", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "Deployment", Name: "d", UID: "d", Controller: ptr.To(true)},
	}}})
	for i := range n {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: fmt.Sprintf("p%d", i), UID: types.UID(fmt.Sprintf("p%d", i)), Labels: map[string]string{"app": "d"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "d-1", UID: "rs", Controller: ptr.To(true)}},
		}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		if i < ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		out = append(out, p)
	}
	return out
}

func budget(change func(s *policyv1.PodDisruptionBudgetSpec)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b", Generation: 1},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}}},
	}
	change(&b.Spec)
	return b
}

func TestDisruption(t *testing.T) {
	number, percent := intstr.FromInt32, intstr.FromString
	for name, c := range map[string]struct {
		pods, ready, size int
		spec              func(s *policyv1.PodDisruptionBudgetSpec)
		disrupted         map[string]metav1.Time
		want              string
	}{
		"a number":           {4, 3, 4, func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(number(2)) }, nil, "allowed 1 healthy 3 desired 2 expected 4"},
		"a part":             {4, 4, 10, func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(percent("25%")) }, nil, "allowed 1 healthy 4 desired 3 expected 10"},
		"unavailable":        {4, 4, 4, func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(number(1)) }, nil, "allowed 1 healthy 4 desired 3 expected 4"},
		"unavailable part":   {3, 2, 10, func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(percent("30%")) }, nil, "allowed 0 healthy 2 desired 7 expected 10"},
		"one is being moved": {3, 3, 3, func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(number(1)) }, map[string]metav1.Time{"p0": metav1.Now(), "p1": metav1.NewTime(time.Now().Add(-time.Hour)), "gone": metav1.Now()}, "allowed 1 healthy 2 desired 1 expected 3 moving 1"},
		"none":               {0, 0, 0, func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(number(0)) }, nil, "allowed 0 healthy 0 desired 0 expected 0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := budget(c.spec)
			b.Status.DisruptedPods = c.disrupted
			w := newWorld(t, append(deploymentPods(c.pods, c.ready), b)...)
			d, err := NewDisruption(w.client, scalesOf(map[string]int32{"d": int32(c.size)}), w.factory, w.events, clock.Real, nil)
			require.NoError(t, err)
			w.run(d)
			eventually(t, func() error {
				b, err := w.client.PolicyV1().PodDisruptionBudgets("ns").Get(w.ctx, "b", metav1.GetOptions{})
				if err != nil {
					return err
				}
				s := b.Status
				got := fmt.Sprintf("allowed %d healthy %d desired %d expected %d", s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods)
				if n := len(s.DisruptedPods); n > 0 {
					got += fmt.Sprintf(" moving %d", n)
				}
				if got != c.want {
					return fmt.Errorf("%s, not %s", got, c.want)
				}
				return nil
			})
		})
	}
}

// TestDisruptionTargetGoesStale takes back what was said of a pod that nobody deleted.
func TestDisruptionTargetGoesStale(t *testing.T) {
	p := deploymentPods(1, 0)[1].(*corev1.Pod)
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Hour))}}
	w := newWorld(t, p)
	d, err := NewDisruption(w.client, Scales{}, w.factory, w.events, clock.Real, nil)
	require.NoError(t, err)
	w.run(d)
	eventually(t, func() error {
		if c := podCondition(&w.pods()[0], corev1.DisruptionTarget); c.Status != corev1.ConditionFalse {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}
