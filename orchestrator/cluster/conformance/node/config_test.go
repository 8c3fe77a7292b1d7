package node

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func configMaps() conformance.Behaviours {
	return conformance.Behaviours{
		"ConfigMap should fail to create ConfigMap with empty key": configMapKey,
		"ConfigMap should run through a ConfigMap lifecycle":       configMapLifecycle,
		"ConfigMap should update ConfigMap successfully":           configMapUpdate,
	}
}

func secrets() conformance.Behaviours {
	return conformance.Behaviours{
		"Secrets should fail to create secret due to empty secret key": secretKey,
		"Secrets should patch a secret":                                secretPatch,
	}
}

func leases() conformance.Behaviours {
	return conformance.Behaviours{"Lease lease API should be available": leaseOperations}
}

func configMapKey(t *testing.T, e *conformance.Env) {
	_, err := e.Client.CoreV1().ConfigMaps(e.NS).Create(e.Ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "empty-key"}, Data: map[string]string{"": "value"},
	}, metav1.CreateOptions{})
	require.True(t, apierrors.IsInvalid(err), "%v", err)
}

func secretKey(t *testing.T, e *conformance.Env) {
	_, err := e.Client.CoreV1().Secrets(e.NS).Create(e.Ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "empty-key"}, Data: map[string][]byte{"": []byte("value")},
	}, metav1.CreateOptions{})
	require.True(t, apierrors.IsInvalid(err), "%v", err)
}

func configMapUpdate(t *testing.T, e *conformance.Env) {
	maps := e.Client.CoreV1().ConfigMaps(e.NS)
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "map"}, Data: map[string]string{"data-1": "value-1", "data-2": "value-2"}}
	create(t, e, maps, m)
	m.Data = map[string]string{"data": "value"}
	_, err := maps.Update(e.Ctx, m, metav1.UpdateOptions{}) // without a version: whatever has changed since
	require.NoError(t, err)
	got, err := maps.Get(e.Ctx, "map", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"data": "value"}, got.Data)
}

func configMapLifecycle(t *testing.T, e *conformance.Env) {
	maps := e.Client.CoreV1().ConfigMaps(e.NS)
	create(t, e, maps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "map", Labels: map[string]string{"static": e.NS}}, Data: map[string]string{"name": "value"}})
	m, err := maps.Get(e.Ctx, "map", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "value", m.Data["name"])
	require.Equal(t, e.NS, m.Labels["static"])
	conformance.Revision(t, m)
	patched, err := maps.Patch(e.Ctx, "map", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched-`+e.NS+`"}},"data":{"name":"value1"}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	conformance.Newer(t, patched, m)
	l, err := e.Client.CoreV1().ConfigMaps("").List(e.Ctx, metav1.ListOptions{LabelSelector: "stage=patched-" + e.NS})
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.Equal(t, e.NS+"/map", l.Items[0].Namespace+"/"+l.Items[0].Name)
	require.Equal(t, "value1", l.Items[0].Data["name"])
	require.Equal(t, e.NS, l.Items[0].Labels["static"])
	static := metav1.ListOptions{LabelSelector: "static=" + e.NS}
	require.NoError(t, maps.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, static))
	l, err = maps.List(e.Ctx, static)
	require.NoError(t, err)
	require.Empty(t, l.Items)
}

func secretPatch(t *testing.T, e *conformance.Env) {
	mine, everywhere := e.Client.CoreV1().Secrets(e.NS), e.Client.CoreV1().Secrets("")
	static := metav1.ListOptions{LabelSelector: "static=" + e.NS}
	made := create(t, e, mine, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "secret", Labels: map[string]string{"static": e.NS}}, Data: map[string][]byte{"key": []byte("value")}, Type: "Opaque",
	})
	conformance.Revision(t, made)
	l, err := everywhere.List(e.Ctx, static)
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	_, err = mine.Patch(e.Ctx, "secret", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}},"data":{"key":"dmFsdWUx"}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	s, err := mine.Get(e.Ctx, "secret", metav1.GetOptions{})
	require.NoError(t, err)
	conformance.Newer(t, s, made)
	require.Equal(t, "value1", string(s.Data["key"]))
	require.NoError(t, mine.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "stage=patched"}))
	l, err = everywhere.List(e.Ctx, static)
	require.NoError(t, err)
	require.Empty(t, l.Items)
}

func leaseOperations(t *testing.T, e *conformance.Env) {
	leases := e.Client.CoordinationV1().Leases(e.NS)
	at := func(seconds int) *metav1.MicroTime {
		return &metav1.MicroTime{Time: time.Time{}.Add(time.Duration(seconds) * time.Second)}
	}
	spec := func(holder string, transitions int32, from int) coordinationv1.LeaseSpec {
		return coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: ptr.To(int32(30)), AcquireTime: at(from), RenewTime: at(from + 3), LeaseTransitions: &transitions,
		}
	}
	is := func(want coordinationv1.LeaseSpec) *coordinationv1.Lease {
		l, err := leases.Get(e.Ctx, "lease", metav1.GetOptions{})
		require.NoError(t, err)
		require.True(t, equality.Semantic.DeepEqual(want, l.Spec), "%+v", l.Spec)
		return l
	}
	made := create(t, e, leases, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "lease"}, Spec: spec("holder", 0, 2)})
	is(spec("holder", 0, 2))
	conformance.Update(t, e, leases, "lease", func(l *coordinationv1.Lease) { l.Spec = spec("holder2", 1, 20) })
	is(spec("holder2", 1, 20))
	_, err := leases.Patch(e.Ctx, "lease", types.StrategicMergePatchType, []byte(`{"spec":{"holderIdentity":"holder3","leaseTransitions":2,
		"acquireTime":"0001-01-01T00:00:50.000000Z","renewTime":"0001-01-01T00:00:53.000000Z"}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	conformance.Newer(t, is(spec("holder3", 2, 50)), made)

	second := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "lease2", Labels: map[string]string{"collection": "true"}}, Spec: spec("holder", 0, 2)}
	create(t, e, leases, second)
	count := func(n int) {
		l, err := leases.List(e.Ctx, metav1.ListOptions{})
		require.NoError(t, err)
		require.Len(t, l.Items, n)
	}
	count(2)
	require.NoError(t, leases.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "collection=true"}))
	count(1)
	require.NoError(t, leases.Delete(e.Ctx, "lease", metav1.DeleteOptions{}))
	_, err = leases.Get(e.Ctx, "lease", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	_, err = e.Client.CoordinationV1().Leases("").List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
}
