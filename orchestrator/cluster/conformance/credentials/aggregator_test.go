//go:build linux

package credentials

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func aggregation() behaviours {
	return behaviours{
		"Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator": sampleServer,
	}
}

var flunders = schema.GroupVersionResource{Group: "wardle.example.com", Version: "v1alpha1", Resource: "flunders"}

const (
	apiService = "v1alpha1.wardle.example.com"
	root       = "/apis/wardle.example.com/v1alpha1"
)

// sampleServer has requests answered by an API server in a pod.
func sampleServer(t *testing.T, ns string) {
	config, err := aggregator.NewForConfig(cluster.Config)
	require.NoError(t, err)
	services := config.APIServices()
	ca := startSample(t, ns)
	register(t, services, ns, ca)
	authorized(t, ns)
	believed(t, ns)
	t.Run("requests", func(t *testing.T) { requests(t, ns) })
	t.Run("dynamic", func(t *testing.T) { throughDynamic(t, ns) })
	t.Run("kubectl", func(t *testing.T) { throughKubectl(t, ns) })
	t.Run("users", func(t *testing.T) { asUser(t, ns) })
	t.Run("status", func(t *testing.T) { registration(t, services) })

	require.NoError(t, services.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: apiService + "=updated"}))
	_, err = services.Get(t.Context(), apiService, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	nodetest.Until(t, "the group is gone", func() (bool, any) {
		groups, err := cluster.Client.Discovery().ServerGroups()
		require.NoError(t, err)
		return !slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == flunders.Group }), groups
	})
	_, err = list(t, "default")
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

// bind gives a role to the service account of a test.
func bind(t *testing.T, ns, role string) {
	t.Helper()
	o := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns + ":" + role}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "default"}},
	}
	all := cluster.Client.RbacV1().ClusterRoleBindings()
	_, err := all.Create(t.Context(), o, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = all.Delete(context.Background(), o.Name, metav1.DeleteOptions{}) })
}

// startSample starts the API server, and returns who signed its certificate.
func startSample(t *testing.T, ns string) (ca []byte) {
	t.Helper()
	authority := newAuthority(t, "sample")
	cert, key := authority.server(t, "sample-api."+ns+".svc")
	_, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "certificate"}, Data: map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": []byte(authority.pem())},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	bindings := cluster.Client.RbacV1().RoleBindings("kube-system")
	_, err = bindings.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "extension-apiserver-authentication-reader"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "default"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bindings.Delete(context.Background(), ns, metav1.DeleteOptions{}) })

	pod := nodetest.Pod("sample", "wardle", "-cert", "/certificate/tls.crt", "-key", "/certificate/tls.key")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.Volumes = []corev1.Volume{{Name: "certificate", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "certificate"}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "certificate", MountPath: "/certificate", ReadOnly: true}}
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Scheme: corev1.URISchemeHTTPS, Path: "/readyz", Port: intstr.FromInt32(443)}},
		PeriodSeconds: 1, TimeoutSeconds: 10,
	}
	_, err = cluster.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "sample"}, Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "sample-api"},
		Spec:       corev1.ServiceSpec{Selector: pod.Labels, Ports: []corev1.ServicePort{{Port: 7443, TargetPort: intstr.FromInt32(443)}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return []byte(authority.pem())
}

// register hands the group over to the server, and waits until it is there.
func register(t *testing.T, services aggregator.APIServiceInterface, ns string, ca []byte) {
	t.Helper()
	_, err := services.Create(t.Context(), &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: apiService}, Spec: apiregistrationv1.APIServiceSpec{
			Group: flunders.Group, Version: flunders.Version, GroupPriorityMinimum: 2000, VersionPriority: 200, CABundle: ca,
			Service: &apiregistrationv1.ServiceReference{Namespace: ns, Name: "sample-api", Port: ptr.To[int32](7443)},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = services.Delete(context.Background(), apiService, metav1.DeleteOptions{}) }) // it should be gone
	nodetest.Until(t, "the API service is available", func() (bool, any) {
		o, err := services.Get(t.Context(), apiService, metav1.GetOptions{})
		require.NoError(t, err)
		c := helper.GetAPIServiceConditionByType(o, apiregistrationv1.Available)
		return c != nil && c.Status == apiregistrationv1.ConditionTrue && c.Message == "all checks passed", c
	})
}

// list lists flunders by the path of their namespace.
func list(t *testing.T, ns string) (names []string, err error) {
	t.Helper()
	b, err := cluster.Client.RESTClient().Get().AbsPath(root, "namespaces", ns, "flunders").SetHeader("Accept", "application/json").Do(t.Context()).Raw()
	if err != nil {
		return nil, err
	}
	all := &unstructured.UnstructuredList{}
	require.NoError(t, all.UnmarshalJSON(b))
	for _, o := range all.Items {
		names = append(names, o.GetName())
	}
	return names, nil
}

// authorized has the server ask whether users may do what they ask for, which it may not do at first.
func authorized(t *testing.T, ns string) {
	t.Helper()
	nodetest.Until(t, "the server may not ask", func() (bool, any) {
		_, err := list(t, "default")
		return apierrors.IsForbidden(err), err
	})
	bind(t, ns, "system:auth-delegator")
	nodetest.Until(t, "the server answers", func() (bool, any) {
		all, err := list(t, "default")
		return err == nil && len(all) == 0, []any{all, err}
	})
}

// believed asks the server itself, which believes nobody without a certificate.
func believed(t *testing.T, ns string) {
	t.Helper()
	pods, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=sample"})
	require.NoError(t, err)
	_, err = cluster.TryExec(t.Context(), ns, pods.Items[0].Name, "main", "get", "-ca", "/certificate/ca.crt", "https://sample-api."+ns+".svc:7443"+root)
	require.ErrorContains(t, err, "401 Unauthorized")
}

func flunder(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder", "metadata": map[string]any{"name": name, "labels": map[string]any{"sample-label": "true"}},
	}}
}

func requests(t *testing.T, ns string) {
	body, err := flunder("rest-flunder").MarshalJSON()
	require.NoError(t, err)
	client, code := cluster.Client.Discovery().RESTClient(), 0
	result := client.Post().AbsPath(root, "namespaces", ns, "flunders").SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(body).Do(t.Context()).StatusCode(&code)
	b, err := result.Raw()
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, code)
	var made unstructured.Unstructured
	require.NoError(t, made.UnmarshalJSON(b))
	require.Equal(t, []string{"wardle.example.com/v1alpha1", "Flunder", "rest-flunder"}, []string{made.GetAPIVersion(), made.GetKind(), made.GetName()})
	all, err := list(t, ns)
	require.NoError(t, err)
	require.Equal(t, []string{"rest-flunder"}, all)
	require.NoError(t, client.Delete().AbsPath(root, "namespaces", ns, "flunders", "rest-flunder").Do(t.Context()).Error())
	all, err = list(t, ns)
	require.NoError(t, err)
	require.Empty(t, all)
}

func throughDynamic(t *testing.T, ns string) {
	resources, err := cluster.Client.Discovery().ServerPreferredNamespacedResources()
	require.NoError(t, err)
	known, err := discovery.GroupVersionResources(resources)
	require.NoError(t, err)
	require.Contains(t, known, flunders)
	client, err := dynamic.NewForConfig(cluster.Config)
	require.NoError(t, err)
	all := client.Resource(flunders).Namespace(ns)
	for range 2 {
		_, err = all.Create(t.Context(), flunder("dynamic-flunder"), metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = all.Create(t.Context(), flunder("dynamic-flunder"), metav1.CreateOptions{})
		require.True(t, apierrors.IsAlreadyExists(err), "%v", err)
		is, err := all.List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
		require.Len(t, is.Items, 1)
		require.NoError(t, all.Delete(t.Context(), "dynamic-flunder", metav1.DeleteOptions{}))
		is, err = all.List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
		require.Empty(t, is.Items)
	}
}

func throughKubectl(t *testing.T, ns string) {
	client, err := dynamic.NewForConfig(cluster.Config)
	require.NoError(t, err)
	_, err = client.Resource(flunders).Namespace(ns).Create(t.Context(), flunder("test-flunder"), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "flunders.wardle.example.com\n", cluster.Kubectl(t, "api-resources", "--api-group="+flunders.Group, "-o", "name"))
	require.Regexp(t, `^NAME +AGE\ntest-flunder +\d+s\n$`, cluster.Kubectl(t, "get", "-n", ns, "flunders"))
	require.Equal(t, "true", cluster.Kubectl(t, "get", "-n", ns, "flunder", "test-flunder", "-o", `jsonpath={.metadata.labels.sample-label}`))
	require.Contains(t, cluster.Kubectl(t, "delete", "-n", ns, "flunder", "test-flunder"), `"test-flunder" deleted`)
	require.Empty(t, cluster.Kubectl(t, "get", "-n", ns, "flunders", "-o", "name"))
}

// asUser has the server know who asks: the cluster's tells it.
func asUser(t *testing.T, ns string) {
	as := rest.CopyConfig(cluster.Config)
	as.Impersonate = rest.ImpersonationConfig{UserName: "jane"}
	client, err := dynamic.NewForConfig(as)
	require.NoError(t, err)
	all := client.Resource(flunders).Namespace(ns)
	_, err = all.Create(t.Context(), flunder("of-jane"), metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	_, err = cluster.Client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "wardler"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"create"}, APIGroups: []string{flunders.Group}, Resources: []string{"flunders"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = cluster.Client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "wardler"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "wardler"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "jane"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	nodetest.Until(t, "jane creates one", func() (bool, any) {
		made, err := all.Create(t.Context(), flunder("of-jane"), metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		by, _, err := unstructured.NestedString(made.Object, "status", "by")
		require.NoError(t, err)
		require.Equal(t, "jane", by)
		return true, nil
	})
	_, err = all.List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
}

// registration reads and writes the object that hands the group over, and its status, which stays what the server finds.
func registration(t *testing.T, services aggregator.APIServiceInterface) {
	has := func(o *apiregistrationv1.APIService, conditions ...string) {
		t.Helper()
		for _, c := range append(conditions, "Available") {
			require.True(t, helper.IsAPIServiceConditionTrue(o, apiregistrationv1.APIServiceConditionType(c)), "%s of %v", c, o.Status)
		}
	}
	status := func() *apiregistrationv1.APIService {
		t.Helper()
		b, err := cluster.Client.RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices", apiService, "status").SetHeader("Accept", "application/json").Do(t.Context()).Raw()
		require.NoError(t, err)
		o := &apiregistrationv1.APIService{}
		require.NoError(t, json.Unmarshal(b, o))
		return o
	}
	condition := func(name string) apiregistrationv1.APIServiceCondition {
		return apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.APIServiceConditionType(name), Status: apiregistrationv1.ConditionTrue, Reason: "Test", Message: "by a test"}
	}
	require.Equal(t, "all checks passed", status().Status.Conditions[0].Message)

	o, err := services.Patch(t.Context(), apiService, types.MergePatchType, []byte(`{"spec":{"versionPriority":400}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 400, o.Spec.VersionPriority)
	o, err = services.Patch(t.Context(), apiService, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"test":"patched"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", o.Labels["test"])
	all, err := services.List(t.Context(), metav1.ListOptions{LabelSelector: "test=patched"})
	require.NoError(t, err)
	require.Len(t, all.Items, 1)

	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		o := status()
		o.Status.Conditions = append(o.Status.Conditions, condition("StatusUpdated"))
		_, err := services.UpdateStatus(t.Context(), o, metav1.UpdateOptions{})
		return err
	}))
	has(status(), "StatusUpdated")
	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		o, err := services.Get(t.Context(), apiService, metav1.GetOptions{})
		require.NoError(t, err)
		o.Labels = map[string]string{apiService: "updated"}
		_, err = services.Update(t.Context(), o, metav1.UpdateOptions{})
		return err
	}))
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": append(status().Status.Conditions, condition("StatusPatched"))}})
	require.NoError(t, err)
	_, err = services.Patch(t.Context(), apiService, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	has(status(), "StatusUpdated", "StatusPatched")
	require.Equal(t, map[string]string{apiService: "updated"}, status().Labels)
	_, err = list(t, "default")
	require.NoError(t, err, fmt.Sprint("it is still served: ", status().Status))
}
