package controllers

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestMigration(t *testing.T) {
	of := func(name, resource string, age time.Duration) *storagemigrationv1.StorageVersionMigration {
		return &storagemigrationv1.StorageVersionMigration{
			ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1", CreationTimestamp: metav1.Time{Time: time.Now().Add(-age)}},
			Spec:       storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: resource}},
		}
	}
	w := newWorld(t, of("good", "secrets", 0), of("bad", "pods", 0), of("early", "things", 0), of("absent", "things", 2*migrationPatience))
	scheme := fake.NewTestScheme()
	require.NoError(t, metav1.AddMetaToScheme(scheme))
	var stored []runtime.Object
	for _, kind := range []string{"Secret", "Pod"} {
		gvk := corev1.SchemeGroupVersion.WithKind(kind)
		scheme.AddKnownTypeWithName(gvk, &metav1.PartialObjectMetadata{})
		scheme.AddKnownTypeWithName(corev1.SchemeGroupVersion.WithKind(kind+"List"), &metav1.PartialObjectMetadataList{})
		for _, name := range []string{"a", "b", "c"} {
			o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "u", ResourceVersion: "7"}}
			o.SetGroupVersionKind(gvk)
			stored = append(stored, o)
		}
	}
	md := fake.NewSimpleMetadataClient(scheme, stored...)
	patched := make(chan string, 10)
	once := errors.New("once")
	md.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p := a.(clienttesting.PatchAction)
		gr := schema.GroupResource{Resource: a.GetResource().Resource}
		switch {
		case gr.Resource == "pods":
			return true, nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, p.GetName(), nil)
		case p.GetName() == "b": // somebody else was faster
			return true, nil, apierrors.NewConflict(gr, "b", nil)
		case p.GetName() == "c" && once != nil:
			err := once
			once = nil
			return true, nil, err
		}
		patched <- p.GetName() + string(p.GetPatch())
		return true, &metav1.PartialObjectMetadata{}, nil
	})
	c, err := NewMigration(w.client, md, func() ([]schema.GroupVersionResource, error) {
		return []schema.GroupVersionResource{corev1.SchemeGroupVersion.WithResource("secrets"), corev1.SchemeGroupVersion.WithResource("pods")}, nil
	}, w.factory, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)
	says := func(name, want string) {
		t.Helper()
		eventually(t, func() error {
			m, err := w.client.StoragemigrationV1().StorageVersionMigrations().Get(w.ctx, name, metav1.GetOptions{})
			require.NoError(t, err)
			var got string
			for _, c := range m.Status.Conditions {
				got += fmt.Sprintf("%s=%s ", c.Type, c.Status)
			}
			if got != want {
				return fmt.Errorf("%s: %s", name, got)
			}
			return nil
		})
	}
	says("good", "Running=False Succeeded=True ")
	says("bad", "Running=False Failed=True ")
	says("absent", "Running=False Failed=True ")
	says("early", "")
	var names string
	for range 3 {
		names += (<-patched)[:1]
	}
	require.Equal(t, "aac", names, "the second time all were tried again")
}
