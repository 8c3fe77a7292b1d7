package cluster_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// TestMigration makes a custom resource be stored in another version, and has the objects that there are stored again.
func TestMigration(t *testing.T) {
	c := clustertest.Start(t)
	ns, client := c.Namespace(t), c.Client(t, nil)
	definitions := c.Extensions(t).ApiextensionsV1().CustomResourceDefinitions()
	yes := true
	free := &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes}}
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "things.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: apiextensionsv1.NamespaceScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Kind: "Thing"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{
			{Name: "v1", Served: true, Storage: true, Schema: free}, {Name: "v2", Served: true, Schema: free},
		},
	}}
	_, err := definitions.Create(t.Context(), crd, metav1.CreateOptions{})
	require.NoError(t, err)
	things := c.Dynamic(t).Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "things"}).Namespace(ns)
	require.Eventually(t, func() bool {
		_, err := things.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "a"}, "size": int64(3),
		}}, metav1.CreateOptions{})
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	store := c.Store(t)
	stored := func() (o metav1.TypeMeta) {
		r, err := store.Get(t.Context(), "/registry/example.com/things/"+ns+"/a")
		require.NoError(t, err)
		require.Len(t, r.Kvs, 1)
		require.NoError(t, json.NewDecoder(strings.NewReader(string(r.Kvs[0].Value))).Decode(&o))
		return o
	}
	require.Equal(t, "example.com/v1", stored().APIVersion)

	require.Eventually(t, func() bool {
		crd, err = definitions.Get(t.Context(), crd.Name, metav1.GetOptions{})
		require.NoError(t, err)
		crd.Spec.Versions[0].Storage, crd.Spec.Versions[1].Storage = false, true
		_, err = definitions.Update(t.Context(), crd, metav1.UpdateOptions{})
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, "example.com/v1", stored().APIVersion, "nobody has touched it")

	migrations := client.StoragemigrationV1().StorageVersionMigrations()
	migrate := func(name string) *storagemigrationv1.StorageVersionMigration {
		_, err = migrations.Create(t.Context(), &storagemigrationv1.StorageVersionMigration{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "example.com", Resource: "things"}},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		var m *storagemigrationv1.StorageVersionMigration
		require.Eventually(t, func() bool {
			m, err = migrations.Get(t.Context(), name, metav1.GetOptions{})
			return err == nil && meta.IsStatusConditionTrue(m.Status.Conditions, "Succeeded")
		}, time.Minute, 10*time.Millisecond)
		return m
	}
	require.NotEmpty(t, migrate("first").Status.ResourceVersion)
	// The API server may have got to know the definition's change only after that.
	for n := 0; stored().APIVersion != "example.com/v2"; n++ {
		require.Less(t, n, 100)
		migrate("again-" + strings.Repeat("x", n))
	}
	o, err := things.Get(t.Context(), "a", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, int64(3), o.Object["size"])
}
