package node

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func generations() conformance.Behaviours {
	return conformance.Behaviours{
		"Ephemeral Containers should update the ephemeral containers in an existing pod":                                                           ephemeral,
		"Pods Extended (pod generation) Pod Generation custom-set generation on new pods and graceful delete":                                      generationDeleted,
		"Pods Extended (pod generation) Pod Generation issue 500 podspec updates and verify generation and observedGeneration eventually converge": generationMany,
		"Pods Extended (pod generation) Pod Generation pod generation should start at 1 and increment per update":                                  generationUpdates,
	}
}

// observed waits until the status of a pod is that of a generation of its spec.
func observed(t *testing.T, e *conformance.Env, name string, generation int64) {
	t.Helper()
	p := conformance.Until(t, e, "the generation is observed", func() (*corev1.Pod, error) {
		return e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
	}, func(p *corev1.Pod) bool { return p.Status.ObservedGeneration >= generation })
	require.Equal(t, generation, p.Generation)
	require.Equal(t, generation, p.Status.ObservedGeneration)
}

func generationUpdates(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	p := pod("app", nil)
	p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: image}}
	require.EqualValues(t, 1, start(t, e, p).Generation)
	want := int64(1)
	for _, step := range []struct {
		name   string
		change func(*corev1.Pod)
		counts bool
	}{
		{"nothing", func(*corev1.Pod) {}, false},
		{"a toleration", func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "foo", Operator: corev1.TolerationOpEqual, Value: "bar", Effect: corev1.TaintEffectNoSchedule})
		}, true},
		{"the deadline", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(int64(5000)) }, true},
		{"an image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = nextImage }, true},
		{"an init container's image", func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = nextImage }, true},
		{"metadata", func(p *corev1.Pod) { p.Annotations = map[string]string{"key": "value"} }, false},
		{"the generation itself", func(p *corev1.Pod) { p.Generation = 1 }, false},
	} {
		updated := conformance.Update(t, e, mine, "app", step.change)
		if step.counts {
			want++
		}
		require.Equal(t, want, updated.Generation, step.name)
		observed(t, e, "app", want)
	}
}

func generationDeleted(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	p := pod("app", nil)
	p.Generation, p.Annotations = 100, map[string]string{stopFor: "1h"}
	require.EqualValues(t, 1, start(t, e, p).Generation)
	code := 0
	require.NoError(t, e.Client.CoreV1().RESTClient().Delete().Namespace(e.NS).Resource("pods").Name("app").Param("gracePeriodSeconds", "60").Do(e.Ctx).StatusCode(&code).Error())
	require.Equal(t, 200, code)
	p, err := mine.Get(e.Ctx, "app", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 2, p.Generation)
	require.NoError(t, mine.Delete(e.Ctx, "app", *metav1.NewDeleteOptions(0)))
}

func generationMany(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	p := pod("app", nil)
	p.Spec.ActiveDeadlineSeconds = ptr.To(int64(5000))
	start(t, e, p)
	for range 499 {
		conformance.Update(t, e, mine, "app", func(p *corev1.Pod) { *p.Spec.ActiveDeadlineSeconds-- })
	}
	observed(t, e, "app", 500)
}

// ephemeral adds two ephemeral containers, one by a patch and one by an update of the subresource.
func ephemeral(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	require.EqualValues(t, 1, start(t, e, pod("app", nil)).Generation)
	_, err := mine.Patch(e.Ctx, "app", "application/strategic-merge-patch+json",
		[]byte(`{"spec":{"ephemeralContainers":[{"name":"debugger","image":"`+image+`","stdin":true,"tty":true}]}}`), metav1.PatchOptions{}, "ephemeralcontainers")
	require.NoError(t, err)
	runs := func(n int) {
		p := conformance.Until(t, e, "the containers run", func() (*corev1.Pod, error) {
			p := &corev1.Pod{}
			return p, e.Client.CoreV1().RESTClient().Get().Namespace(e.NS).Resource("pods").Name("app").SubResource("ephemeralcontainers").Do(e.Ctx).Into(p)
		}, func(p *corev1.Pod) bool { return len(p.Status.EphemeralContainerStatuses) == n })
		require.Len(t, p.Spec.EphemeralContainers, n)
		require.EqualValues(t, n+1, p.Generation)
		for _, s := range p.Status.EphemeralContainerStatuses {
			require.NotNil(t, s.State.Running)
		}
	}
	runs(1)
	p, err := mine.Get(e.Ctx, "app", metav1.GetOptions{})
	require.NoError(t, err)
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "debugger2", Image: nextImage, ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}})
	_, err = mine.UpdateEphemeralContainers(e.Ctx, "app", p, metav1.UpdateOptions{})
	require.NoError(t, err)
	runs(2)
}
