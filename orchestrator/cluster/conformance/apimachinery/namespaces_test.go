package apimachinery

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func namespaces(e *conformance.Env) typedcorev1.NamespaceInterface {
	return e.Client.CoreV1().Namespaces()
}

// withServiceAccount waits until a namespace has its service account.
func withServiceAccount(t *testing.T, e *conformance.Env) {
	t.Helper()
	eventually(t, e, func() error {
		_, err := e.Client.CoreV1().ServiceAccounts(e.NS).Get(e.Ctx, "default", metav1.GetOptions{})
		return err
	})
}

// removed deletes the namespace, waits until it is gone, and makes it again.
func removed(t *testing.T, e *conformance.Env) {
	t.Helper()
	require.NoError(t, namespaces(e).Delete(e.Ctx, e.NS, metav1.DeleteOptions{}))
	eventually(t, e, gone(func() (*corev1.Namespace, error) { return namespaces(e).Get(e.Ctx, e.NS, metav1.GetOptions{}) }))
	_, err := namespaces(e).Create(e.Ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: e.NS}}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// runningPod makes a pod and waits until it runs.
func runningPod(t *testing.T, e *conformance.Env, name string, finalizers ...string) {
	t.Helper()
	pods := e.Client.CoreV1().Pods(e.NS)
	_, err := pods.Create(e.Ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}, Spec: podTemplate(name).Spec}, metav1.CreateOptions{})
	require.NoError(t, err)
	eventually(t, e, func() error {
		p, err := pods.Get(e.Ctx, name, metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("the pod is %s", p.Status.Phase)
		}
		return err
	})
}

func namespaceTakesPods(t *testing.T, e *conformance.Env) {
	withServiceAccount(t, e)
	runningPod(t, e, "p")
	removed(t, e)
	_, err := e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, "p", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func namespaceTakesServices(t *testing.T, e *conformance.Env) {
	withServiceAccount(t, e)
	services := e.Client.CoreV1().Services(e.NS)
	_, err := services.Create(e.Ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"a": "b"}, Ports: []corev1.ServicePort{{Port: 80}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	removed(t, e)
	_, err = services.Get(e.Ctx, "s", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func podsGoFirst(t *testing.T, e *conformance.Env) {
	withServiceAccount(t, e)
	runningPod(t, e, "p", "example.com/finalizer")
	maps, pods := e.Client.CoreV1().ConfigMaps(e.NS), e.Client.CoreV1().Pods(e.NS)
	_, err := maps.Create(e.Ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, namespaces(e).Delete(e.Ctx, e.NS, metav1.DeleteOptions{}))
	eventually(t, e, func() error { // the controller has been there
		ns, err := namespaces(e).Get(e.Ctx, e.NS, metav1.GetOptions{})
		require.NoError(t, err)
		reported := func(c corev1.NamespaceCondition) bool { return c.Type == corev1.NamespaceDeletionContentFailure }
		if ns.Status.Phase != corev1.NamespaceTerminating || !slices.ContainsFunc(ns.Status.Conditions, reported) {
			return fmt.Errorf("%+v", ns.Status)
		}
		return nil
	})
	eventually(t, e, func() error {
		p, err := pods.Get(e.Ctx, "p", metav1.GetOptions{})
		require.NoError(t, err)
		if p.DeletionTimestamp == nil {
			return errors.New("the pod is not being deleted")
		}
		return nil
	})
	_, err = maps.Get(e.Ctx, "c", metav1.GetOptions{})
	require.NoError(t, err, "it has to wait for the pod")
	retried(t, e, func() (*corev1.Pod, error) {
		p, err := pods.Get(e.Ctx, "p", metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		p.Finalizers = nil
		return pods.Update(e.Ctx, p, metav1.UpdateOptions{})
	})
	eventually(t, e, gone(func() (*corev1.Pod, error) { return pods.Get(e.Ctx, "p", metav1.GetOptions{}) }))
	eventually(t, e, gone(func() (*corev1.Namespace, error) { return namespaces(e).Get(e.Ctx, e.NS, metav1.GetOptions{}) }))
}

func namespacePatch(t *testing.T, e *conformance.Env) {
	before, err := namespaces(e).Get(e.Ctx, e.NS, metav1.GetOptions{})
	require.NoError(t, err)
	patched, err := namespaces(e).Patch(e.Ctx, e.NS, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"testLabel":"testValue"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	n, err := resourceversion.CompareResourceVersion(before.ResourceVersion, patched.ResourceVersion)
	require.NoError(t, err)
	require.Negative(t, n)
	after, err := namespaces(e).Get(e.Ctx, e.NS, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "testValue", after.Labels["testLabel"])
}

func namespaceUpdate(t *testing.T, e *conformance.Env) {
	ns := retried(t, e, func() (*corev1.Namespace, error) {
		ns, err := namespaces(e).Get(e.Ctx, e.NS, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		ns.Labels[e.NS] = "updated"
		return namespaces(e).Update(e.Ctx, ns, metav1.UpdateOptions{})
	})
	require.Equal(t, "updated", ns.Labels[e.NS])
}

func namespaceStatus(t *testing.T, e *conformance.Env) {
	resource := e.Dynamic(t).Resource(corev1.SchemeGroupVersion.WithResource("namespaces"))
	status := func() (*corev1.Namespace, error) {
		u, err := resource.Get(e.Ctx, e.NS, metav1.GetOptions{}, "status")
		if err != nil {
			return nil, err
		}
		ns := &corev1.Namespace{}
		return ns, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, ns)
	}
	ns, err := status()
	require.NoError(t, err)
	require.Equal(t, corev1.NamespaceActive, ns.Status.Phase)
	ns, err = namespaces(e).Patch(e.Ctx, e.NS, types.MergePatchType, []byte(
		`{"metadata":{"annotations":{"patched":"yes"}},"status":{"conditions":[{"type":"StatusPatch","status":"True","reason":"E2E","message":"Patched"}]}}`),
		metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.Equal(t, "yes", ns.Annotations["patched"])
	last := ns.Status.Conditions[len(ns.Status.Conditions)-1]
	require.Equal(t, "E2E Patched", last.Reason+" "+last.Message)
	ns = retried(t, e, func() (*corev1.Namespace, error) {
		ns, err := status()
		if err != nil {
			return nil, err
		}
		ns.Status.Conditions = append(ns.Status.Conditions, corev1.NamespaceCondition{Type: "StatusUpdate", Status: corev1.ConditionTrue, Reason: "E2E", Message: "Updated"})
		return namespaces(e).UpdateStatus(e.Ctx, ns, metav1.UpdateOptions{})
	})
	require.Len(t, ns.Status.Conditions, 2)
	require.Equal(t, corev1.NamespaceConditionType("StatusUpdate"), ns.Status.Conditions[1].Type)
	require.Equal(t, "Updated", ns.Status.Conditions[1].Message)
}

func namespaceFinalizer(t *testing.T, e *conformance.Env) {
	const mine = corev1.FinalizerName("example.com/fakeFinalizer")
	change := func(f func([]corev1.FinalizerName) []corev1.FinalizerName) []corev1.FinalizerName {
		return retried(t, e, func() (*corev1.Namespace, error) {
			ns, err := namespaces(e).Get(e.Ctx, e.NS, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			ns.Spec.Finalizers = f(ns.Spec.Finalizers)
			return namespaces(e).Finalize(e.Ctx, ns, metav1.UpdateOptions{})
		}).Spec.Finalizers
	}
	require.Contains(t, change(func(all []corev1.FinalizerName) []corev1.FinalizerName { return append(all, mine) }), mine)
	left := change(func(all []corev1.FinalizerName) []corev1.FinalizerName {
		return slices.DeleteFunc(all, func(f corev1.FinalizerName) bool { return f == mine })
	})
	require.Equal(t, []corev1.FinalizerName{corev1.FinalizerKubernetes}, left)
}
