package node

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func pods() conformance.Behaviours {
	return conformance.Behaviours{
		"Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and limits for memory and cpu": podQOS,
		"Pods should allow activeDeadlineSeconds to be updated":                                                                podDeadline,
		"Pods should be submitted and removed":                                                                                 podRemoved,
		"Pods should be updated":                                                                                               podUpdated,
		"Pods should delete a collection of pods":                                                                              podCollection,
		"Pods should get a host IP":                                                                                            podHostIP,
		"Pods should patch a pod status":                                                                                       podStatusPatch,
		"Pods should run through the lifecycle of Pods and PodStatus":                                                          podLifecycle,
		"Sysctls should reject invalid sysctls":                                                                                sysctls,
	}
}

func podHostIP(t *testing.T, e *conformance.Env) {
	p := start(t, e, pod("app", nil))
	n, err := e.Client.CoreV1().Nodes().Get(e.Ctx, p.Spec.NodeName, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, []corev1.HostIP{{IP: p.Status.HostIP}}, p.Status.HostIPs)
	require.Contains(t, n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: p.Status.HostIP})
}

func podRemoved(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	selector := metav1.ListOptions{LabelSelector: "name=app"}
	list := func() *corev1.PodList {
		l, err := mine.List(e.Ctx, selector)
		require.NoError(t, err)
		return l
	}
	before := list()
	require.Empty(t, before.Items)
	since := selector
	since.ResourceVersion = before.ResourceVersion
	w := conformance.Observe[*corev1.Pod](t, e, mine.Watch, since)
	create(t, e, mine, pod("app", map[string]string{"name": "app"}))
	require.Len(t, list().Items, 1)
	w.Next(watch.Added)
	conformance.PodRunning(t, e, e.NS, "app")
	require.NoError(t, mine.Delete(e.Ctx, "app", *metav1.NewDeleteOptions(30)))
	gone := w.Until(watch.Deleted, "the pod is gone", nil)
	require.NotNil(t, gone.DeletionTimestamp)
	require.NotZero(t, *gone.Spec.TerminationGracePeriodSeconds)
	require.Empty(t, list().Items)
}

func podUpdated(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	start(t, e, pod("app", map[string]string{"time": "first"}))
	for _, value := range []string{"first", "second"} {
		conformance.Update(t, e, mine, "app", func(p *corev1.Pod) { p.Labels["time"] = value })
		l, err := mine.List(e.Ctx, metav1.ListOptions{LabelSelector: "time=" + value})
		require.NoError(t, err)
		require.Len(t, l.Items, 1)
	}
	l, err := mine.List(e.Ctx, metav1.ListOptions{LabelSelector: "time=first"})
	require.NoError(t, err)
	require.Empty(t, l.Items)
	conformance.PodRunning(t, e, e.NS, "app")
}

func podDeadline(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	start(t, e, pod("app", nil))
	conformance.Update(t, e, mine, "app", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(int64(2)) })
	p := conformance.Until(t, e, "the pod has failed", func() (*corev1.Pod, error) {
		return mine.Get(e.Ctx, "app", metav1.GetOptions{})
	}, func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	require.Equal(t, "DeadlineExceeded", p.Status.Reason)
	for _, change := range []*int64{nil, ptr.To(int64(3)), ptr.To(int64(0))} { // none, longer and impossible
		p.Spec.ActiveDeadlineSeconds = change
		_, err := mine.Update(e.Ctx, p, metav1.UpdateOptions{})
		require.True(t, apierrors.IsInvalid(err), "%v", err)
	}
}

func podCollection(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	for _, name := range []string{"a", "b", "c"} {
		p := pod(name, map[string]string{"type": "testing"})
		p.Spec.TerminationGracePeriodSeconds, p.Spec.RestartPolicy = ptr.To(int64(1)), corev1.RestartPolicyNever
		create(t, e, mine, p)
	}
	conformance.PodsRunning(t, e, "type=testing", 3)
	require.NoError(t, mine.DeleteCollection(e.Ctx, *metav1.NewDeleteOptions(1), metav1.ListOptions{LabelSelector: "type=testing"}))
	conformance.Eventually(t, e, "all pods are gone", func() (bool, error) {
		l, err := mine.List(e.Ctx, metav1.ListOptions{LabelSelector: "type=testing"})
		if err != nil {
			return false, err
		}
		return len(l.Items) == 0, nil
	})
}

func podStatusPatch(t *testing.T, e *conformance.Env) {
	start(t, e, pod("app", nil))
	p, err := e.Client.CoreV1().Pods(e.NS).Patch(e.Ctx, "app", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"message":"patched by the test","reason":"Test"}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.Equal(t, "patched by the test", p.Status.Message)
	require.Equal(t, "Test", p.Status.Reason)
	require.Equal(t, corev1.PodRunning, p.Status.Phase)
}

// podLifecycle follows a pod by a watch from its creation to its deletion.
func podLifecycle(t *testing.T, e *conformance.Env) {
	mine := e.Client.CoreV1().Pods(e.NS)
	static := metav1.ListOptions{LabelSelector: "static=" + e.NS}
	before, err := e.Client.CoreV1().Pods("").List(e.Ctx, static)
	require.NoError(t, err)
	since := static
	since.ResourceVersion = before.ResourceVersion
	w := conformance.Observe[*corev1.Pod](t, e, mine.Watch, since)
	p := pod("app", map[string]string{"static": e.NS})
	p.Spec.TerminationGracePeriodSeconds = ptr.To(int64(1))
	create(t, e, mine, p)
	w.Until(watch.Modified, "the pod runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	p = conformance.PodRunning(t, e, e.NS, "app")

	_, err = mine.Patch(e.Ctx, "app", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}},
		"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"app","image":"`+nextImage+`"}]}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	w.Until(watch.Modified, "the patched pod", func(p *corev1.Pod) bool { return p.Labels["stage"] == "patched" && p.Labels["static"] == e.NS })
	patched, err := mine.Get(e.Ctx, "app", metav1.GetOptions{})
	require.NoError(t, err)
	conformance.Newer(t, patched, p)
	require.Equal(t, nextImage, patched.Spec.Containers[0].Image)

	set := func(p *corev1.Pod) (changed int) {
		for i := range p.Status.Conditions {
			c := &p.Status.Conditions[i]
			if (c.Type == corev1.PodReady || c.Type == corev1.ContainersReady) && c.Status == corev1.ConditionTrue {
				c.Status = corev1.ConditionFalse
				changed++
			}
		}
		return changed
	}
	at := &corev1.Pod{}
	get := e.Client.CoreV1().RESTClient().Get().Namespace(e.NS).Resource("pods").Name("app").SubResource("status")
	require.NoError(t, get.Do(e.Ctx).Into(at))
	require.Equal(t, 2, set(at.DeepCopy()))
	updated := conformance.UpdateStatus(t, e, mine, "app", func(p *corev1.Pod) { set(p) })
	for _, typ := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		require.Equal(t, corev1.ConditionFalse, conformance.PodCondition(updated, typ).Status)
	}
	require.NoError(t, mine.DeleteCollection(e.Ctx, *metav1.NewDeleteOptions(1), static))
	w.Until(watch.Deleted, "the pod is gone", nil)
	_, err = mine.Get(e.Ctx, "app", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func podQOS(t *testing.T, e *conformance.Env) {
	p := pod("app", nil)
	r := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi")}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: r, Limits: r}
	create(t, e, e.Client.CoreV1().Pods(e.NS), p)
	p, err := e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, "app", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, corev1.PodQOSGuaranteed, p.Status.QOSClass)
}

func sysctls(t *testing.T, e *conformance.Env) {
	p := pod("app", nil)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{
		{Name: "foo-", Value: "bar"}, {Name: "kernel.shmmax", Value: "100000000"}, {Name: "safe-and-unsafe", Value: "100000000"}, {Name: "bar..", Value: "42"},
	}}
	_, err := e.Client.CoreV1().Pods(e.NS).Create(e.Ctx, p, metav1.CreateOptions{})
	require.ErrorContains(t, err, `Invalid value: "foo-"`)
	require.ErrorContains(t, err, `Invalid value: "bar.."`)
	for _, fine := range []string{"safe-and-unsafe", "kernel.shmmax"} {
		require.NotContains(t, err.Error(), fine)
	}
}
