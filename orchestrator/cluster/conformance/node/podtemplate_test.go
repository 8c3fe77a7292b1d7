package node

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func podTemplates() conformance.Behaviours {
	return conformance.Behaviours{
		"PodTemplates should delete a collection of pod templates": templateCollection,
		"PodTemplates should replace a pod template":               templateReplace,
		"PodTemplates should run the lifecycle of PodTemplates":    templateLifecycle,
	}
}

func podTemplate(name string, labels map[string]string) *corev1.PodTemplate {
	return &corev1.PodTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Template:   corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}}},
	}
}

func templateLifecycle(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().PodTemplates(e.NS)
	count := func(n int) {
		l, err := e.Client.CoreV1().PodTemplates("").List(e.Ctx, metav1.ListOptions{LabelSelector: "static=" + e.NS})
		require.NoError(t, err)
		require.Len(t, l.Items, n)
	}
	count(0)
	create(t, e, mine, podTemplate("template", map[string]string{"static": e.NS}))
	count(1)
	before, err := mine.Get(e.Ctx, "template", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, image, before.Template.Spec.Containers[0].Image)
	patched, err := mine.Patch(e.Ctx, "template", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	conformance.Newer(t, patched, before)
	after, err := mine.Get(e.Ctx, "template", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", after.Labels["stage"])
	require.NoError(t, mine.Delete(e.Ctx, "template", metav1.DeleteOptions{}))
	count(0)
}

func templateCollection(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().PodTemplates(e.NS)
	set := metav1.ListOptions{LabelSelector: "set=true"}
	for _, name := range []string{"a", "b", "c"} {
		create(t, e, mine, podTemplate(name, map[string]string{"set": "true"}))
	}
	l, err := mine.List(e.Ctx, set)
	require.NoError(t, err)
	require.Len(t, l.Items, 3)
	require.NoError(t, mine.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, set))
	l, err = mine.List(e.Ctx, set)
	require.NoError(t, err)
	require.Empty(t, l.Items)
}

func templateReplace(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().PodTemplates(e.NS)
	create(t, e, mine, podTemplate("template", nil))
	updated := conformance.Update(t, e, mine, "template", func(x *corev1.PodTemplate) { x.Annotations = map[string]string{"updated": "true"} })
	require.Equal(t, map[string]string{"updated": "true"}, updated.Annotations)
}
