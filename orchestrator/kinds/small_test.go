package kinds

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/deprecation"
	"k8s.io/utils/ptr"
)

func TestSet(t *testing.T) {
	s, err := NewSet(Builtin()...)
	require.NoError(t, err)
	for _, k := range s.All() {
		require.Same(t, k, s.ByKind(k.GroupVersionKind))
		require.Same(t, k, s.ByResource(k.GroupVersionResource()))
		gvks, _, err := s.Scheme().ObjectKinds(k.New())
		require.NoError(t, err)
		require.Contains(t, gvks, k.GroupVersionKind)
		if k.Row != nil {
			require.Len(t, k.Row(k.New(), time.Now()), len(k.Columns), k.Kind)
		}
	}
	_, err = NewSet(append(Builtin(), Builtin()...)...)
	require.Error(t, err)
	_, err = NewSet(eventKind(), eventsKinds()[1])
	require.ErrorContains(t, err, "is stored as a copy of /v1, Kind=Event")
}

// TestDeprecated: who uses a kind that k8s.io/api calls deprecated is told so, in Kubernetes' words.
func TestDeprecated(t *testing.T) {
	for _, k := range Builtin() {
		o := k.New()
		o.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
		want := ""
		if deprecation.IsDeprecated(o, 1, 37) {
			want = deprecation.WarningMessage(o)
		}
		require.Equal(t, want, k.Deprecation, k.Kind)
	}
}

func TestLease(t *testing.T) {
	k := coordinationKinds()[0]
	bad := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: ptr.To(int32(0)), LeaseTransitions: ptr.To(int32(-1)), PreferredHolder: ptr.To("x")}}
	require.EqualError(t, k.Validate(bad).ToAggregate(), "[spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0, "+
		"spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0, "+
		"spec.preferredHolder: Forbidden: may only be specified when `strategy` is defined]")
	now := time.Now()
	good := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "l", CreationTimestamp: metav1.NewTime(now.Add(-90 * time.Second))}, Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("me")},
	}
	require.Empty(t, k.Validate(good))
	require.Equal(t, []any{"l", "me", "90s"}, k.Row(good, now))
}

func TestPriorityClass(t *testing.T) {
	k := schedulingKinds()[0]
	class := func(name string, value int32) *schedulingv1.PriorityClass {
		c := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
		k.Default(c)
		return c
	}
	require.Equal(t, corev1.PreemptLowerPriority, *class("a", 1).PreemptionPolicy)
	require.Empty(t, k.Validate(class("a", highestPriority)))
	require.Empty(t, k.Validate(class("system-node-critical", 2000001000)))
	require.EqualError(t, k.Validate(class("a", highestPriority+1)).ToAggregate(), "value: Forbidden: maximum allowed value of a user defined priority is 1000000000")
	require.ErrorContains(t, k.Validate(class("system-mine", 1)).ToAggregate(), "reserved for system use only")
	require.ErrorContains(t, k.Validate(class("system-node-critical", 5)).ToAggregate(), "must be 2000001000")
	changed := class("a", 2)
	changed.PreemptionPolicy = ptr.To(corev1.PreemptNever)
	require.EqualError(t, k.ValidateUpdate(changed, class("a", 1)).ToAggregate(),
		"[value: Forbidden: may not be changed in an update., preemptionPolicy: Invalid value: \"Never\": field is immutable]")
	odd := class("a", 1)
	odd.PreemptionPolicy = ptr.To(corev1.PreemptionPolicy("Sometimes"))
	require.ErrorContains(t, k.Validate(odd).ToAggregate(), `preemptionPolicy: Unsupported value: "Sometimes"`)
}
