package openapi

import (
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func testKinds() []*kinds.Kind {
	pod := &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Pod"), Resource: "pods", Singular: "pod", Namespaced: true,
		New: func() kinds.Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
		Strategy: kinds.Strategy{Status: kinds.PartAt(func(o kinds.Object) any { return &o.(*corev1.Pod).Status })},
		Subresources: []kinds.Subresource{
			{Name: "eviction", Kind: schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, Verbs: []string{"create"}},
			{Name: "log", Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Verbs: []string{"get"}},
			{Name: "exec", Kind: corev1.SchemeGroupVersion.WithKind("PodExecOptions"), Verbs: []string{"create", "get"}},
		},
	}
	node := &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Node"), Resource: "nodes", Singular: "node", Verbs: []string{"get", "list", "watch"},
		New: func() kinds.Object { return &corev1.Node{} }, NewList: func() runtime.Object { return &corev1.NodeList{} },
	}
	deployment := &kinds.Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("Deployment"), Resource: "deployments", Singular: "deployment", Namespaced: true,
		New: func() kinds.Object { return &appsv1.Deployment{} }, NewList: func() runtime.Object { return &appsv1.DeploymentList{} },
		Scale: &kinds.Scale{},
	}
	definition := &kinds.Kind{
		GroupVersionKind: apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"),
		Resource:         "customresourcedefinitions", Singular: "customresourcedefinition",
		New: func() kinds.Object { return &apiextensionsv1.CustomResourceDefinition{} }, NewList: func() runtime.Object { return &apiextensionsv1.CustomResourceDefinitionList{} },
	}
	custom := &kinds.Kind{
		GroupVersionKind: schema.GroupVersionKind{Group: "shop.example", Version: "v1", Kind: "Order"}, Resource: "orders", Singular: "order", Namespaced: true,
		New: func() kinds.Object { return &unstructured.Unstructured{} }, NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
	}
	return []*kinds.Kind{pod, node, deployment, definition, custom}
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &u.Object))
	return u
}

// Objects are merged as server-side apply does it: lists by their keys, with the keys' defaults.
func TestMerge(t *testing.T) {
	all, err := Definitions(testKinds())
	require.NoError(t, err)
	converter, err := managedfields.NewTypeConverter(all, false)
	require.NoError(t, err)
	for _, c := range []struct{ name, a, b, want string }{
		{
			name: "lists of containers and of ports",
			a:    `{apiVersion: v1, kind: Pod, spec: {containers: [{name: a, image: x, ports: [{containerPort: 80, name: http}]}]}}`,
			b:    `{apiVersion: v1, kind: Pod, spec: {containers: [{name: b}, {name: a, ports: [{containerPort: 80, protocol: TCP, hostPort: 8}]}]}}`,
			want: `{apiVersion: v1, kind: Pod, spec: {containers: [{name: b}, {name: a, image: x, ports: [{containerPort: 80, protocol: TCP, name: http, hostPort: 8}]}]}}`,
		}, {
			name: "sets, atomic lists and atomic maps",
			a:    `{apiVersion: v1, kind: Pod, metadata: {finalizers: [a]}, spec: {nodeSelector: {a: b}, containers: [{name: a, args: [x]}]}}`,
			b:    `{apiVersion: v1, kind: Pod, metadata: {finalizers: [b]}, spec: {nodeSelector: {c: d}, containers: [{name: a, args: [z]}]}}`,
			want: `{apiVersion: v1, kind: Pod, metadata: {finalizers: [a, b]}, spec: {nodeSelector: {c: d}, containers: [{name: a, args: [z]}]}}`,
		}, {
			name: "deep",
			a:    `{apiVersion: apps/v1, kind: Deployment, spec: {selector: {matchLabels: {a: b}}, template: {spec: {volumes: [{name: v, emptyDir: {sizeLimit: 1Gi}}]}}}}`,
			b:    `{apiVersion: apps/v1, kind: Deployment, spec: {strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 1}}, template: {spec: {volumes: [{name: v, emptyDir: {medium: Memory}}]}}}}`,
			want: `{apiVersion: apps/v1, kind: Deployment, spec: {selector: {matchLabels: {a: b}}, strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 1}}, template: {spec: {volumes: [{name: v, emptyDir: {sizeLimit: 1Gi, medium: Memory}}]}}}}`,
		}, {
			name: "scale",
			a:    `{apiVersion: autoscaling/v1, kind: Scale, spec: {replicas: 1}}`,
			b:    `{apiVersion: autoscaling/v1, kind: Scale, metadata: {labels: {a: b}}}`,
			want: `{apiVersion: autoscaling/v1, kind: Scale, metadata: {labels: {a: b}}, spec: {replicas: 1}}`,
		}, {
			name: "definitions of custom resources",
			a:    `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, spec: {group: a, versions: [{name: v1, schema: {openAPIV3Schema: {type: object, default: {a: 1}}}}]}}`,
			b:    `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, spec: {names: {shortNames: [a]}}}`,
			want: `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, spec: {group: a, names: {shortNames: [a]}, versions: [{name: v1, schema: {openAPIV3Schema: {type: object, default: {a: 1}}}}]}}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := converter.ObjectToTyped(object(t, c.a))
			require.NoError(t, err)
			b, err := converter.ObjectToTyped(object(t, c.b))
			require.NoError(t, err)
			merged, err := a.Merge(b)
			require.NoError(t, err)
			got, err := converter.TypedToObject(merged)
			require.NoError(t, err)
			require.Equal(t, object(t, c.want), got)
		})
	}
	_, err = converter.ObjectToTyped(object(t, `{apiVersion: v1, kind: Pod, spec: {nonsense: 1}}`))
	require.ErrorContains(t, err, "field not declared in schema")
	_, err = converter.ObjectToTyped(object(t, `{apiVersion: shop.example/v1, kind: Order}`))
	require.Error(t, err, "custom resources have schemas of their own")
}

func TestDefinitions(t *testing.T) {
	all, err := Definitions(testKinds())
	require.NoError(t, err)
	property := func(model, name string) spec.Schema {
		t.Helper()
		require.Contains(t, all, model)
		require.Contains(t, all[model].Properties, name)
		return all[model].Properties[name]
	}
	require.Equal(t, []string{"containers"}, all["io.k8s.api.core.v1.PodSpec"].Required)
	require.Equal(t, []string{"name"}, all["io.k8s.api.core.v1.Container"].Required)
	require.Equal(t, []string{"spec"}, all["io.k8s.api.apps.v1.Deployment"].Required, "a comment says so")
	require.Empty(t, all["io.k8s.api.apps.v1.DeploymentCondition"].Required, "a comment says so")
	require.Equal(t, []any{map[string]any{"group": "apps", "version": "v1", "kind": "Deployment"}}, all["io.k8s.api.apps.v1.Deployment"].Extensions[kindExtension])

	containers := property("io.k8s.api.core.v1.PodSpec", "containers")
	require.Equal(t, spec.Extensions{
		"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": []any{"name"},
		"x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge",
	}, containers.Extensions)
	require.Equal(t, "#/components/schemas/io.k8s.api.core.v1.Container", containers.Items.Schema.Ref.String())
	require.Contains(t, containers.Description, "List of containers belonging to the pod.")
	require.Equal(t, "TCP", property("io.k8s.api.core.v1.ContainerPort", "protocol").Default)
	require.Equal(t, "int32", property("io.k8s.api.core.v1.ContainerPort", "containerPort").Format)
	require.Equal(t, "int64", property("io.k8s.api.core.v1.PodSpec", "terminationGracePeriodSeconds").Format)
	require.Equal(t, "atomic", property("io.k8s.api.core.v1.PodSpec", "nodeSelector").Extensions["x-kubernetes-map-type"])
	probe := property("io.k8s.api.core.v1.Container", "livenessProbe")
	require.Equal(t, "#/components/schemas/io.k8s.api.core.v1.Probe", probe.AllOf[0].Ref.String(), "a reference has nothing beside it")
	require.Empty(t, probe.Ref.String())
	require.Equal(t, map[string]any{}, property("io.k8s.api.core.v1.Pod", "spec").Default)
	require.Equal(t, "Pod", all["io.k8s.api.core.v1.Pod"].Extensions[kindExtension].([]any)[0].(map[string]any)["kind"])

	require.Equal(t, "date-time", all["io.k8s.apimachinery.pkg.apis.meta.v1.Time"].Format)
	require.Len(t, all["io.k8s.apimachinery.pkg.api.resource.Quantity"].OneOf, 2)
	require.Len(t, all["io.k8s.apimachinery.pkg.util.intstr.IntOrString"].OneOf, 2)
	require.Empty(t, all["io.k8s.apimachinery.pkg.util.intstr.IntOrString"].Extensions)
	require.Contains(t, all, "io.k8s.api.policy.v1.Eviction")
	for name, s := range all {
		require.NotEmpty(t, s.Type.Contains("object") || len(s.Properties) == 0, name)
		for property := range s.Properties {
			for _, ref := range references(s.Properties[property]) {
				require.Contains(t, all, ref, "%s.%s", name, property)
			}
		}
	}
}

// references are the names of the types that a schema refers to.
func references(s spec.Schema) []string {
	const prefix = "#/components/schemas/"
	var all []string
	if r := s.Ref.String(); r != "" {
		all = append(all, r[len(prefix):])
	}
	for _, o := range s.AllOf {
		all = append(all, references(o)...)
	}
	if s.Items != nil {
		all = append(all, references(*s.Items.Schema)...)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		all = append(all, references(*s.AdditionalProperties.Schema)...)
	}
	return all
}

func BenchmarkDefinitions(b *testing.B) {
	for b.Loop() {
		if _, err := Definitions(testKinds()); err != nil {
			b.Fatal(err)
		}
	}
}
