package admission

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func TestRuntimeClass(t *testing.T) {
	overhead := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}
	const prefix = "runtimeclasses.node.k8s.io//"
	p := &RuntimeClass{Lookup: table{all: map[string]kinds.Object{
		prefix + "plain": &nodev1.RuntimeClass{Handler: "runc"},
		prefix + "heavy": &nodev1.RuntimeClass{Handler: "vm", Overhead: &nodev1.Overhead{PodFixed: overhead}, Scheduling: &nodev1.Scheduling{
			NodeSelector: map[string]string{"vm": "yes"},
			Tolerations:  []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}, {Key: "other", Operator: corev1.TolerationOpEqual, Value: "x"}},
		}},
	}, late: map[string]kinds.Object{prefix + "new": &nodev1.RuntimeClass{Handler: "runc"}}}}
	admit := func(class string, spec corev1.PodSpec) (corev1.PodSpec, error) {
		if class != "" {
			spec.RuntimeClassName = &class
		}
		pod := &corev1.Pod{Spec: spec}
		err := p.Mutate(t.Context(), podRequest(pod))
		if err == nil {
			err = p.Validate(t.Context(), podRequest(pod))
		}
		return pod.Spec, err
	}
	for _, fine := range []string{"", "plain", "new"} {
		s, err := admit(fine, corev1.PodSpec{})
		require.NoError(t, err, fine)
		require.Empty(t, s.Overhead)
	}
	s, err := admit("heavy", corev1.PodSpec{
		NodeSelector: map[string]string{"a": "b"},
		Tolerations:  []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpEqual, Value: "y"}, {Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}},
	})
	require.NoError(t, err)
	require.Equal(t, overhead, s.Overhead)
	require.Equal(t, map[string]string{"a": "b", "vm": "yes"}, s.NodeSelector)
	require.Equal(t, []corev1.Toleration{
		{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}, {Key: "vm", Operator: corev1.TolerationOpExists},
		{Key: "other", Operator: corev1.TolerationOpEqual, Value: "x"},
	}, s.Tolerations)

	other := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("11m")}
	for what, c := range map[string]struct {
		class string
		spec  corev1.PodSpec
	}{
		`RuntimeClass "none" not found`:                             {"none", corev1.PodSpec{}},
		"doesn't match RuntimeClass's defined Overhead":             {"heavy", corev1.PodSpec{Overhead: other}},
		"without corresponding RuntimeClass":                        {"plain", corev1.PodSpec{Overhead: other}},
		"runtimeClass.scheduling.nodeSelector[vm] = yes":            {"heavy", corev1.PodSpec{NodeSelector: map[string]string{"vm": "no"}}},
		"pod rejected: Pod Overhead set without corresponding Runt": {"", corev1.PodSpec{Overhead: other}},
	} {
		_, err := admit(c.class, c.spec)
		require.True(t, apierrors.IsForbidden(err), "%s: %v", what, err)
		require.ErrorContains(t, err, what)
	}
}

func TestCovers(t *testing.T) {
	short := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To(int64(1))}
	long := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To(int64(2))}
	ever := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists}
	require.True(t, covers(&long, &short))
	require.False(t, covers(&short, &long))
	require.True(t, covers(&ever, &long))
	require.False(t, covers(&long, &ever))
	require.True(t, covers(&corev1.Toleration{Key: "a", Value: "x"}, &corev1.Toleration{Key: "a", Operator: corev1.TolerationOpEqual, Value: "x"}))
	require.False(t, covers(&corev1.Toleration{Key: "a", Value: "x"}, &corev1.Toleration{Key: "a", Value: "y"}))
	require.False(t, covers(&corev1.Toleration{Key: "a", Value: "x"}, &ever))
}
