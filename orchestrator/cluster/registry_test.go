package cluster_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestRegistry reads what the API server stored in the real etcd with Kubernetes' own decoder, and has the API server read
// what Kubernetes' own encoder stored.
func TestRegistry(t *testing.T) {
	etcd := servertest.New(t, 1)
	etcd.RunProgram(etcd.Members[0], servertest.Oracle(t, "etcd"))
	etcd.WaitReady(etcd.Members...)
	c := clustertest.Start(t, clustertest.Store(etcd.Addrs()...))
	cs, ns := c.Client(t, nil), c.Namespace(t)
	store, err := client.New(client.Config{Endpoints: etcd.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })

	replicas, labels := int32(0), map[string]string{"app": "web"}
	d, err := cs.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	secret, err := cs.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"k": {0, 1, 255}}}, metav1.CreateOptions{})
	require.NoError(t, err)

	known := runtime.NewScheme()
	require.NoError(t, scheme.AddToScheme(known))
	require.NoError(t, apiregistration.AddToScheme(known))
	codec := serializer.NewCodecFactory(known).UniversalDeserializer()
	read := func(key string, into runtime.Object) {
		t.Helper()
		r, err := store.Get(t.Context(), key)
		require.NoError(t, err)
		require.Len(t, r.Kvs, 1, key)
		require.True(t, bytes.HasPrefix(r.Kvs[0].Value, []byte("k8s\x00")), key)
		_, _, err = codec.Decode(r.Kvs[0].Value, nil, into)
		require.NoError(t, err)
	}
	var storedSecret corev1.Secret
	read("/registry/secrets/"+ns+"/s", &storedSecret)
	require.Equal(t, secret.UID, storedSecret.UID)
	require.Empty(t, storedSecret.ResourceVersion)
	require.Equal(t, secret.Data, storedSecret.Data)
	require.Equal(t, secret.ManagedFields, storedSecret.ManagedFields)
	var stored appsv1.Deployment
	read("/registry/deployments/"+ns+"/web", &stored)
	require.Equal(t, d.Spec, stored.Spec)

	require.Eventually(t, func() bool {
		_, err := cs.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{})
		_, cerr := cs.CoreV1().ConfigMaps(ns).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil && cerr == nil
	}, time.Minute, 20*time.Millisecond)
	every(t, store, codec)
	writeAnother(t, c, store, ns)
}

// every value below /registry is decoded: what the cluster made for itself is of many kinds.
func every(t *testing.T, store *client.Client, codec runtime.Decoder) {
	t.Helper()
	r, err := store.Get(t.Context(), "/registry/", client.WithPrefix())
	require.NoError(t, err)
	found := map[string]int{}
	for _, kv := range r.Kvs {
		o, gvk, err := codec.Decode(kv.Value, nil, nil)
		require.NoError(t, err, "%s", kv.Key)
		found[gvk.Kind]++
		m, ok := o.(metav1.Object)
		require.True(t, ok)
		require.True(t, strings.HasSuffix(string(kv.Key), "/"+m.GetName()), "%s is %s", kv.Key, m.GetName())
	}
	for _, kind := range []string{"Namespace", "Node", "Lease", "ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "Service", "APIService"} {
		require.NotZero(t, found[kind], "%s in %v", kind, found)
	}
}

// writeAnother stores an object past the API server, as another API server on the same store would.
func writeAnother(t *testing.T, c *clustertest.Cluster, store *client.Client, ns string) {
	t.Helper()
	role := &rbacv1.Role{
		TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"},
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "other", UID: "other", CreationTimestamp: metav1.Now().Rfc3339Copy()},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}},
	}
	var b bytes.Buffer
	require.NoError(t, protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(role, &b))
	_, err := store.Put(t.Context(), fmt.Sprintf("/registry/roles/%s/other", ns), b.String())
	require.NoError(t, err)
	got, err := c.Client(t, nil).RbacV1().Roles(ns).Get(t.Context(), "other", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, role.Rules, got.Rules)
	require.Equal(t, role.UID, got.UID)
}
