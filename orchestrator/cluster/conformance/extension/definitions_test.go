package extension

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// anything is the schema of objects that may have any fields.
func anything() *apiextensions.JSONSchemaProps {
	return &apiextensions.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
}

// version is a served version.
func version(name string, stored bool, s *apiextensions.JSONSchemaProps) apiextensions.CustomResourceDefinitionVersion {
	return apiextensions.CustomResourceDefinitionVersion{
		Name: name, Served: true, Storage: stored, Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: s},
	}
}

// definition is one with random names, in a group that nobody else has unless it is given. Without versions it has v1, in
// which anything goes.
func definition(scope apiextensions.ResourceScope, group string, versions ...apiextensions.CustomResourceDefinitionVersion) *apiextensions.CustomResourceDefinition {
	name := "thing" + rand.String(8)
	if group == "" {
		group = "group-" + rand.String(8) + ".example.com"
	}
	if len(versions) == 0 {
		versions = append(versions, version("v1", true, anything()))
	}
	return &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: name + "s." + group},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: group, Scope: scope, Versions: versions,
			Names: apiextensions.CustomResourceDefinitionNames{Plural: name + "s", Singular: name, Kind: strings.ToUpper(name[:1]) + name[1:], ListKind: name + "List"},
		},
	}
}

// define makes a definition and waits until it is established and in discovery. It is deleted after the test.
func define(t *testing.T, e *conformance.Env, d *apiextensions.CustomResourceDefinition) *apiextensions.CustomResourceDefinition {
	t.Helper()
	c := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions()
	made, err := c.Create(e.Ctx, d, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	poll(t, e.Ctx, func() (bool, error) {
		var err error
		made, err = c.Get(e.Ctx, d.Name, metav1.GetOptions{})
		return err == nil && apihelpers.IsCRDConditionTrue(made, apiextensions.Established), err
	})
	for _, v := range made.Spec.Versions {
		list, err := e.Client.Discovery().ServerResourcesForGroupVersion(made.Spec.Group + "/" + v.Name)
		require.NoError(t, err)
		require.NotEmpty(t, list.APIResources)
	}
	return made
}

// undefine deletes a definition and waits until it is gone.
func undefine(t *testing.T, e *conformance.Env, name string) {
	t.Helper()
	c := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions()
	require.NoError(t, c.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	poll(t, e.Ctx, func() (bool, error) {
		_, err := c.Get(e.Ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// objects is a client of a definition's objects in one version.
func objects(t *testing.T, e *conformance.Env, d *apiextensions.CustomResourceDefinition, version string) dynamic.ResourceInterface {
	r := e.Dynamic(t).Resource(schema.GroupVersionResource{Group: d.Spec.Group, Version: version, Resource: d.Spec.Names.Plural})
	if d.Spec.Scope == apiextensions.NamespaceScoped {
		return r.Namespace(e.NS)
	}
	return r
}

// object is an object of a definition, in one version, with fields beside its metadata.
func object(d *apiextensions.CustomResourceDefinition, version, name string, fields map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	for k, v := range fields {
		o.Object[k] = v
	}
	o.SetAPIVersion(d.Spec.Group + "/" + version)
	o.SetKind(d.Spec.Names.Kind)
	o.SetName(name)
	return o
}
