package kinds

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func simplePod(change ...func(o *corev1.Pod)) *corev1.Pod {
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, f := range change {
		f(o)
	}
	podKind().Default(o)
	return o
}

func TestPodDefaults(t *testing.T) {
	o := simplePod()
	s, c := &o.Spec, &o.Spec.Containers[0]
	require.Equal(t, corev1.PullAlways, c.ImagePullPolicy)
	require.Equal(t, corev1.DNSClusterFirst, s.DNSPolicy)
	require.EqualValues(t, 30, *s.TerminationGracePeriodSeconds)
	require.NotNil(t, s.SecurityContext)
	require.True(t, *s.EnableServiceLinks)
	require.Empty(t, podKind().Validate(o))
	podKind().Create(o)
	require.Equal(t, corev1.PodPending, o.Status.Phase)
	require.Equal(t, corev1.PodQOSBestEffort, o.Status.QOSClass)
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": corev1.PullAlways, "nginx:latest": corev1.PullAlways, "r.example:5000/a/b": corev1.PullAlways, "nginx:1.2": corev1.PullIfNotPresent,
		"localhost:5000/a:1": corev1.PullIfNotPresent, "Not an image": corev1.PullIfNotPresent,
		"a@sha256:0123456789012345678901234567890123456789012345678901234567890123": corev1.PullIfNotPresent,
	} {
		require.Equal(t, want, pullPolicy(image), image)
	}
}

func TestPodGrace(t *testing.T) {
	k := podKind()
	running := simplePod(func(o *corev1.Pod) { o.Spec.NodeName = "n" })
	require.EqualValues(t, 30, *k.Grace(running, nil))
	require.EqualValues(t, 5, *k.Grace(running, ptr.To[int64](5)))
	require.EqualValues(t, 1, *k.Grace(running, ptr.To[int64](-1)))
	require.EqualValues(t, 0, *k.Grace(simplePod(), nil), "nobody runs it")
}

func TestReplicationController(t *testing.T) {
	k := replicationControllerKind()
	o := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "rc", CreationTimestamp: metav1.Now()},
		Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}}},
		}},
	}
	k.Default(o)
	require.Empty(t, k.Validate(o))
	require.Equal(t, map[string]string{"a": "b"}, o.Spec.Selector)
	require.Equal(t, "a=b", k.Scale.Selector(o))
	k.Scale.SetReplicas(o, 3)
	require.EqualValues(t, 3, k.Scale.Replicas(o))
	require.Equal(t, []any{"rc", int64(3), int64(0), int64(0), "0s", "c", "i:1", "a=b"}, k.Row(o, o.CreationTimestamp.Add(time.Millisecond)))
	o.Spec.Selector = map[string]string{"a": "c"}
	require.ErrorContains(t, k.Validate(o).ToAggregate(), "`selector` does not match template `labels`")
}
