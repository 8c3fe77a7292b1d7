package apimachinery

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// amounts makes a resource list of "cpu=1 memory=2".
func amounts(s string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for part := range strings.FieldsSeq(s) {
		k, v, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(k)] = resource.MustParse(v)
	}
	return out
}

// everything limits one of each, as some more than the behaviours need.
const everything = "pods=5 services=10 services.nodeports=1 services.loadbalancers=1 replicationcontrollers=10 resourcequotas=1 cpu=1 memory=500Mi " +
	"configmaps=10 secrets=10 persistentvolumeclaims=10 requests.storage=10Gi ephemeral-storage=50Gi " +
	"gold.storageclass.storage.k8s.io/persistentvolumeclaims=10 gold.storageclass.storage.k8s.io/requests.storage=10Gi " +
	"count/replicasets.apps=5 requests.example.com/dongle=3"

func quotas(e *conformance.Env) typedcorev1.ResourceQuotaInterface {
	return e.Client.CoreV1().ResourceQuotas(e.NS)
}

// newQuota makes a quota. Scope may be empty.
func newQuota(t *testing.T, e *conformance.Env, name, hard string, scope corev1.ResourceQuotaScope) *corev1.ResourceQuota {
	t.Helper()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(hard)}}
	if scope != "" {
		q.Spec.Scopes = []corev1.ResourceQuotaScope{scope}
	}
	q, err := quotas(e).Create(e.Ctx, q, metav1.CreateOptions{})
	require.NoError(t, err)
	return q
}

// used waits until the status of a quota says that this much is used, among other things.
func used(t *testing.T, e *conformance.Env, name, want string) {
	t.Helper()
	eventually(t, e, func() error { return isUsed(e, name, want) })
}

func isUsed(e *conformance.Env, name, want string) error {
	q, err := quotas(e).Get(e.Ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for k, n := range amounts(want) {
		if have, ok := q.Status.Used[k]; !ok || have.Cmp(n) != 0 {
			return fmt.Errorf("used of %s: %s is %s, not %s", name, k, have.String(), n.String())
		}
	}
	return nil
}

func quotaIsCalculated(t *testing.T, e *conformance.Env) {
	newQuota(t, e, "q", everything, "")
	used(t, e, "q", "resourcequotas=1 pods=0 services=0 count/replicasets.apps=0 requests.example.com/dongle=0 gold.storageclass.storage.k8s.io/requests.storage=0")
}

func quotaOfServices(t *testing.T, e *conformance.Env) {
	newQuota(t, e, "q", everything, "")
	used(t, e, "q", "resourcequotas=1")
	services := e.Client.CoreV1().Services(e.NS)
	create := func(name string, of corev1.ServiceType) error {
		_, err := services.Create(e.Ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			Type: of, Ports: []corev1.ServicePort{{Port: 80}},
		}}, metav1.CreateOptions{})
		return err
	}
	require.NoError(t, create("plain", corev1.ServiceTypeClusterIP))
	require.NoError(t, create("node", corev1.ServiceTypeNodePort))
	require.True(t, apierrors.IsForbidden(create("balancer", corev1.ServiceTypeLoadBalancer)), "it needs a second node port")
	used(t, e, "q", "resourcequotas=1 services=2 services.nodeports=1 services.loadbalancers=0")
	for _, name := range []string{"plain", "node"} {
		require.NoError(t, services.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	}
	used(t, e, "q", "resourcequotas=1 services=0 services.nodeports=0")
}

// counted follows an object of which some are there already.
func counted(t *testing.T, e *conformance.Env, what string, there int, create, remove func() error) {
	t.Helper()
	q := func(n int) string { return fmt.Sprintf("%s=%d", what, n) }
	newQuota(t, e, "q", everything+" "+q(there+1), "")
	used(t, e, "q", "resourcequotas=1 "+q(there))
	require.NoError(t, create())
	used(t, e, "q", q(there+1))
	require.NoError(t, remove())
	used(t, e, "q", q(there))
}

func quotaOfSecrets(t *testing.T, e *conformance.Env) {
	secrets := e.Client.CoreV1().Secrets(e.NS)
	there, err := secrets.List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	one := func(name string) error {
		_, err := secrets.Create(e.Ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"a": []byte("b")}}, metav1.CreateOptions{})
		return err
	}
	counted(t, e, "secrets", len(there.Items), func() error {
		if err := one("s"); err != nil {
			return err
		}
		require.True(t, apierrors.IsForbidden(one("more")), "the quota is used up")
		return nil
	}, func() error { return secrets.Delete(e.Ctx, "s", metav1.DeleteOptions{}) })
}

func quotaOfConfigMaps(t *testing.T, e *conformance.Env) {
	maps := e.Client.CoreV1().ConfigMaps(e.NS)
	eventually(t, e, func() error { // it comes with every namespace
		_, err := maps.Get(e.Ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	counted(t, e, "configmaps", 1, func() error {
		_, err := maps.Create(e.Ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
		return err
	}, func() error { return maps.Delete(e.Ctx, "c", metav1.DeleteOptions{}) })
}

func quotaOfControllers(t *testing.T, e *conformance.Env) {
	controllers := e.Client.CoreV1().ReplicationControllers(e.NS)
	background := metav1.DeletePropagationBackground
	counted(t, e, "replicationcontrollers", 0, func() error {
		_, err := controllers.Create(e.Ctx, replicationController("rc", 0), metav1.CreateOptions{})
		return err
	}, func() error {
		return controllers.Delete(e.Ctx, "rc", metav1.DeleteOptions{PropagationPolicy: &background})
	})
}

func quotaOfReplicaSets(t *testing.T, e *conformance.Env) {
	sets := e.Client.AppsV1().ReplicaSets(e.NS)
	counted(t, e, "count/replicasets.apps", 0, func() error {
		_, err := sets.Create(e.Ctx, replicaSet("rs", 0), metav1.CreateOptions{})
		return err
	}, func() error { return sets.Delete(e.Ctx, "rs", metav1.DeleteOptions{}) })
}

// quotaPod is a pod that no node may have.
func quotaPod(name, requests, limits string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		NodeSelector: map[string]string{"x-test.k8s.io/unsatisfiable": "not-schedulable"},
		Containers: []corev1.Container{{
			Name: "c", Image: "registry.k8s.io/pause:3.10", Resources: corev1.ResourceRequirements{Requests: amounts(requests), Limits: amounts(limits)},
		}},
	}}
}

func quotaOfPods(t *testing.T, e *conformance.Env) {
	newQuota(t, e, "q", everything, "")
	used(t, e, "q", "resourcequotas=1")
	pods := e.Client.CoreV1().Pods(e.NS)
	p, err := pods.Create(e.Ctx, quotaPod("p", "cpu=500m memory=252Mi ephemeral-storage=30Gi example.com/dongle=2", "example.com/dongle=2"), metav1.CreateOptions{})
	require.NoError(t, err)
	const one = "resourcequotas=1 pods=1 cpu=500m memory=252Mi ephemeral-storage=30Gi requests.example.com/dongle=2"
	used(t, e, "q", one)
	for _, requests := range []string{"cpu=600m memory=100Mi", "cpu=500m memory=100Mi ephemeral-storage=30Gi example.com/dongle=2"} {
		limits := ""
		if strings.Contains(requests, "dongle") {
			limits = "example.com/dongle=2"
		}
		_, err = pods.Create(e.Ctx, quotaPod("more", requests, limits), metav1.CreateOptions{})
		require.True(t, apierrors.IsForbidden(err), "%s: %v", requests, err)
	}
	p.ResourceVersion = "" // the scheduler has changed its status
	p.Spec.Containers[0].Resources.Requests = amounts("cpu=100m memory=100Mi ephemeral-storage=10Gi")
	_, err = pods.Update(e.Ctx, p, metav1.UpdateOptions{})
	require.True(t, apierrors.IsInvalid(err), "%v", err)
	used(t, e, "q", one)
	require.NoError(t, pods.Delete(e.Ctx, "p", *metav1.NewDeleteOptions(0)))
	used(t, e, "q", "resourcequotas=1 pods=0 cpu=0 memory=0 ephemeral-storage=0 requests.example.com/dongle=0")
}

// scoped has quotas of two scopes that exclude each other, and pods that belong to one of them.
func scoped(t *testing.T, e *conformance.Env, scopes [2]corev1.ResourceQuotaScope, hard [2]string, pods [2]*corev1.Pod, takes [2]string) {
	t.Helper()
	names := [2]string{"first", "second"}
	for i, name := range names {
		newQuota(t, e, name, hard[i], scopes[i])
		used(t, e, name, "pods=0")
	}
	for i, p := range pods {
		_, err := e.Client.CoreV1().Pods(e.NS).Create(e.Ctx, p, metav1.CreateOptions{})
		require.NoError(t, err)
		used(t, e, names[i], takes[i])
		require.NoError(t, isUsed(e, names[1-i], "pods=0"), "the other is not about it")
		require.NoError(t, e.Client.CoreV1().Pods(e.NS).Delete(e.Ctx, p.Name, *metav1.NewDeleteOptions(0)))
		used(t, e, names[i], "pods=0")
		for _, n := range strings.Fields(takes[i]) {
			what, _, _ := strings.Cut(n, "=")
			used(t, e, names[i], what+"=0")
		}
	}
}

func quotaTerminating(t *testing.T, e *conformance.Env) {
	const (
		hard  = "pods=5 requests.cpu=1 requests.memory=500Mi limits.cpu=2 limits.memory=1Gi"
		takes = "pods=1 requests.cpu=500m requests.memory=200Mi limits.cpu=1 limits.memory=400Mi"
	)
	pod := func(name string) *corev1.Pod { return quotaPod(name, "cpu=500m memory=200Mi", "cpu=1 memory=400Mi") }
	ending, deadline := pod("ending"), int64(3600)
	ending.Spec.ActiveDeadlineSeconds = &deadline
	scoped(t, e, [2]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeTerminating},
		[2]string{hard, hard}, [2]*corev1.Pod{pod("long"), ending}, [2]string{takes, takes})
}

func quotaBestEffort(t *testing.T, e *conformance.Env) {
	scoped(t, e, [2]corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort}, [2]string{"pods=5", "pods=5"},
		[2]*corev1.Pod{quotaPod("modest", "", ""), quotaPod("burstable", "cpu=500m memory=200Mi", "cpu=1 memory=400Mi")}, [2]string{"pods=1", "pods=1"})
}

func quotaUpdate(t *testing.T, e *conformance.Env) {
	q := newQuota(t, e, "q", "cpu=1 memory=500Mi", "")
	is := func(hard string) {
		t.Helper()
		q, err := quotas(e).Get(e.Ctx, "q", metav1.GetOptions{})
		require.NoError(t, err)
		require.True(t, equality.Semantic.DeepEqual(amounts(hard), q.Spec.Hard), "%v", q.Spec.Hard)
	}
	is("cpu=1 memory=500Mi")
	q.ResourceVersion = ""
	q.Spec.Hard = amounts("cpu=2 memory=1Gi")
	q, err := quotas(e).Update(e.Ctx, q, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.True(t, equality.Semantic.DeepEqual(amounts("cpu=2 memory=1Gi"), q.Spec.Hard), "%v", q.Spec.Hard)
	is("cpu=2 memory=1Gi")
	require.NoError(t, quotas(e).Delete(e.Ctx, "q", metav1.DeleteOptions{}))
	_, err = quotas(e).Get(e.Ctx, "q", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

func quotaLifecycle(t *testing.T, e *conformance.Env) {
	label := map[string]string{"rq": e.NS}
	selected := metav1.ListOptions{LabelSelector: "rq=" + e.NS}
	made, err := quotas(e).Create(e.Ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q", Labels: label}, Spec: corev1.ResourceQuotaSpec{Hard: amounts("cpu=1 memory=500Mi")},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	all, err := e.Client.CoreV1().ResourceQuotas("").List(e.Ctx, selected)
	require.NoError(t, err)
	require.Len(t, all.Items, 1)
	require.Equal(t, made.UID, all.Items[0].UID)
	p, err := quotas(e).Patch(e.Ctx, "q", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"q":"patched"}},"spec":{"hard":{"memory":"750Mi"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", p.Labels["q"])
	require.Equal(t, "750Mi", p.Spec.Hard.Memory().String())
	require.Equal(t, "1", p.Spec.Hard.Cpu().String())
	n, err := resourceversion.CompareResourceVersion(all.Items[0].ResourceVersion, p.ResourceVersion)
	require.NoError(t, err)
	require.Negative(t, n)
	require.NoError(t, quotas(e).DeleteCollection(e.Ctx, metav1.DeleteOptions{}, selected))
	_, err = quotas(e).Get(e.Ctx, "q", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

// quotaStatus changes a quota's status as the controller does, and as it should not be changed.
func quotaStatus(t *testing.T, e *conformance.Env) {
	newQuota(t, e, "q", "cpu=500m memory=500Mi", "")
	w, err := quotas(e).Watch(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	defer w.Stop()
	shows := func(hard string) {
		t.Helper()
		await(t, e, w, func(ev watch.Event) bool {
			q, ok := ev.Object.(*corev1.ResourceQuota)
			return ok && equality.Semantic.DeepEqual(q.Status.Hard, amounts(hard))
		})
	}
	retried(t, e, func() (*corev1.ResourceQuota, error) {
		q, err := quotas(e).Get(e.Ctx, "q", metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		q.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard}
		return quotas(e).UpdateStatus(e.Ctx, q, metav1.UpdateOptions{})
	})
	shows("cpu=500m memory=500Mi")
	_, err = quotas(e).Patch(e.Ctx, "q", types.StrategicMergePatchType, []byte(`{"spec":{"hard":{"cpu":"1","memory":"1Gi"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	patch := func(hard string) *corev1.ResourceQuota {
		t.Helper()
		b, err := json.Marshal(map[string]any{"status": map[string]any{"hard": amounts(hard)}})
		require.NoError(t, err)
		q, err := quotas(e).Patch(e.Ctx, "q", types.StrategicMergePatchType, b, metav1.PatchOptions{}, "status")
		require.NoError(t, err)
		require.True(t, equality.Semantic.DeepEqual(amounts(hard), q.Status.Hard), "%v", q.Status.Hard)
		return q
	}
	patch("cpu=1 memory=1Gi")
	shows("cpu=1 memory=1Gi")
	u, err := e.Dynamic(t).Resource(corev1.SchemeGroupVersion.WithResource("resourcequotas")).Namespace(e.NS).Get(e.Ctx, "q", metav1.GetOptions{}, "status")
	require.NoError(t, err)
	var read corev1.ResourceQuota
	require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &read))
	require.True(t, equality.Semantic.DeepEqual(amounts("cpu=1 memory=1Gi"), read.Status.Hard), "%v", read.Status.Hard)

	wrong := patch("cpu=2 memory=2Gi")
	require.True(t, equality.Semantic.DeepEqual(amounts("cpu=1 memory=1Gi"), wrong.Spec.Hard), "the specification stays")
	shows("cpu=2 memory=2Gi")
	shows("cpu=1 memory=1Gi") // the controller says so
}
