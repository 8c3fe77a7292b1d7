package node

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func runtimeClasses() conformance.Behaviours {
	return conformance.Behaviours{
		"RuntimeClass should reject a Pod requesting a deleted RuntimeClass":                       classDeleted,
		"RuntimeClass should reject a Pod requesting a non-existent RuntimeClass":                  classMissing,
		"RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead": classOverhead,
		"RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead":         classPlain,
		"RuntimeClass should support RuntimeClasses API operations":                                classOperations,
	}
}

// class makes a runtime class until the test ends, and returns its name.
func class(t *testing.T, e *conformance.Env, overhead corev1.ResourceList) string {
	t.Helper()
	c := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{GenerateName: e.NS + "-"}, Handler: "runc"}
	if overhead != nil {
		c.Overhead = &nodev1.Overhead{PodFixed: overhead}
	}
	all := e.Client.NodeV1().RuntimeClasses()
	c = create(t, e, all, c)
	t.Cleanup(func() {
		if err := all.Delete(e.Outlive().Ctx, c.Name, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			require.NoError(t, err)
		}
	})
	return c.Name
}

func ofClass(class string) *corev1.Pod {
	p := pod("app", nil)
	p.Spec.RuntimeClassName = &class
	return p
}

// rejected is the error by which a pod of a class is rejected, nil if it is not.
func rejected(e *conformance.Env, class string) error {
	_, err := e.Client.CoreV1().Pods(e.NS).Create(e.Ctx, ofClass(class), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

func classMissing(t *testing.T, e *conformance.Env) {
	err := rejected(e, e.NS+"-nonexistent")
	require.True(t, apierrors.IsForbidden(err), "%v", err)
}

func classDeleted(t *testing.T, e *conformance.Env) {
	name := class(t, e, nil)
	require.NoError(t, rejected(e, name))
	all := e.Client.NodeV1().RuntimeClasses()
	require.NoError(t, all.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	_, err := all.Get(e.Ctx, name, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	conformance.Eventually(t, e, "a pod is rejected", func() (bool, error) { return apierrors.IsForbidden(rejected(e, name)), nil })
}

// scheduled waits until a pod is bound to a node.
func scheduled(t *testing.T, e *conformance.Env, name string) *corev1.Pod {
	t.Helper()
	return conformance.Until(t, e, name+" is scheduled", func() (*corev1.Pod, error) {
		return e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
	}, func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
}

func classPlain(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.CoreV1().Pods(e.NS), ofClass(class(t, e, nil)))
	require.Empty(t, scheduled(t, e, "app").Spec.Overhead)
}

func classOverhead(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.CoreV1().Pods(e.NS), ofClass(class(t, e, corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("1Mi"),
	})))
	o := scheduled(t, e, "app").Spec.Overhead
	require.Len(t, o, 2)
	require.Equal(t, "10m", o.Cpu().String())
	require.Equal(t, "1Mi", o.Memory().String())
}

func classOperations(t *testing.T, e *conformance.Env) {
	conformance.Operations[*nodev1.RuntimeClass]{
		Resource: nodev1.SchemeGroupVersion.WithResource("runtimeclasses"), Kind: "RuntimeClass",
		Make: func(int) *nodev1.RuntimeClass { return &nodev1.RuntimeClass{Handler: "runc"} },
	}.Run(t, e)
}
