package admission

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func quantities(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func container(requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func TestLimitDefaults(t *testing.T) {
	p := &LimitRanger{Lookup: table{all: map[string]kinds.Object{"limitranges/ns/l": &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Default: quantities("500m", "1Gi"), DefaultRequest: quantities("100m", "")},
	}}}}}}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container(nil, quantities("", "2Gi"))}}}
	require.NoError(t, p.Mutate(t.Context(), podRequest(pod)))
	require.Equal(t, quantities("100m", ""), pod.Spec.Containers[0].Resources.Requests)
	require.Equal(t, quantities("500m", "2Gi"), pod.Spec.Containers[0].Resources.Limits)
	require.Equal(t, "LimitRanger plugin set: cpu request for container c; cpu limit for container c", pod.Annotations[limitRangerAnnotation])
}

func TestLimits(t *testing.T) {
	item := corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Min: quantities("100m", ""), Max: quantities("2", ""), MaxLimitRequestRatio: quantities("4", "")}
	whole := corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: quantities("3", "")}
	always := ptr.To(corev1.ContainerRestartPolicyAlways)
	for name, c := range map[string]struct {
		item       corev1.LimitRangeItem
		init, main []corev1.Container
		err        string
	}{
		"fits":      {item, nil, []corev1.Container{container(quantities("500m", ""), quantities("1", ""))}, ""},
		"too small": {item, nil, []corev1.Container{container(quantities("50m", ""), quantities("200m", ""))}, "minimum cpu usage per Container is 100m, but request is 50m"},
		"too large": {item, nil, []corev1.Container{container(quantities("1", ""), quantities("3", ""))}, "maximum cpu usage per Container is 2, but limit is 3"},
		"nothing said": {item, nil, []corev1.Container{container(nil, nil)},
			"[minimum cpu usage per Container is 100m.  No request is specified, maximum cpu usage per Container is 2.  No limit is specified, " +
				"cpu max limit to request ratio per Container is 4, but no request is specified or request is 0]"},
		"ratio":     {item, nil, []corev1.Container{container(quantities("200m", ""), quantities("1", ""))}, "cpu max limit to request ratio per Container is 4, but provided ratio is 5.000000"},
		"pod fits":  {whole, []corev1.Container{container(nil, quantities("3", ""))}, []corev1.Container{container(nil, quantities("1", "")), container(nil, quantities("2", ""))}, ""},
		"pod large": {whole, nil, []corev1.Container{container(nil, quantities("2", "")), container(nil, quantities("2", ""))}, "maximum cpu usage per Pod is 3, but limit is 4"},
		"sidecar": {whole, []corev1.Container{{RestartPolicy: always, Resources: corev1.ResourceRequirements{Limits: quantities("2", "")}}, container(nil, quantities("2", ""))},
			[]corev1.Container{container(nil, quantities("1", ""))}, "maximum cpu usage per Pod is 3, but limit is 4"},
	} {
		p := &LimitRanger{Lookup: table{all: map[string]kinds.Object{"limitranges/ns/l": &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{c.item}}}}}}
		err := p.Validate(t.Context(), podRequest(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: corev1.PodSpec{InitContainers: c.init, Containers: c.main}}))
		if c.err == "" {
			require.NoError(t, err, name)
			continue
		}
		require.True(t, apierrors.IsForbidden(err), name)
		require.EqualError(t, err, `pods "x" is forbidden: `+c.err, name)
	}
}
