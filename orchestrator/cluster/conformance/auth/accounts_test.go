package auth

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func newAccount(t *testing.T, e *conformance.Env, name string, mount *bool) *corev1.ServiceAccount {
	o, err := e.Client.CoreV1().ServiceAccounts(e.NS).Create(e.Ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: name}, AutomountServiceAccountToken: mount,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return o
}

func automount(t *testing.T, e *conformance.Env) {
	newAccount(t, e, "mount", ptr.To(true))
	newAccount(t, e, "nomount", ptr.To(false))
	for name, c := range map[string]struct {
		account string
		spec    *bool
		want    bool
	}{
		"default":              {"default", nil, true},
		"account":              {"mount", nil, true},
		"account-out":          {"nomount", nil, false},
		"default-spec":         {"default", ptr.To(true), true},
		"account-spec":         {"mount", ptr.To(true), true},
		"account-out-spec":     {"nomount", ptr.To(true), true},
		"default-spec-out":     {"default", ptr.To(false), false},
		"account-spec-out":     {"mount", ptr.To(false), false},
		"account-out-spec-out": {"nomount", ptr.To(false), false},
	} {
		pod, err := e.Client.CoreV1().Pods(e.NS).Create(e.Ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{
				Containers:    []corev1.Container{{Name: "c", Image: "registry.k8s.io/pause:3.10"}},
				RestartPolicy: corev1.RestartPolicyNever, ServiceAccountName: c.account, AutomountServiceAccountToken: c.spec,
			},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		mounted := ""
		for _, m := range pod.Spec.Containers[0].VolumeMounts {
			if m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount" {
				mounted = m.Name
			}
		}
		require.Equal(t, c.want, mounted != "", name)
		if mounted == "" {
			continue
		}
		require.Len(t, pod.Spec.Volumes, 1)
		require.Equal(t, mounted, pod.Spec.Volumes[0].Name)
		sources := pod.Spec.Volumes[0].Projected.Sources
		require.Len(t, sources, 3)
		require.Equal(t, "token", sources[0].ServiceAccountToken.Path)
		require.Equal(t, "kube-root-ca.crt", sources[1].ConfigMap.Name)
		require.Equal(t, "namespace", sources[2].DownwardAPI.Items[0].Path)
	}
}

func accountLifecycle(t *testing.T, e *conformance.Env) {
	accounts, label := e.Client.CoreV1().ServiceAccounts(e.NS), "test-serviceaccount-static="+e.NS
	created, err := accounts.Create(e.Ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: "testserviceaccount", Labels: map[string]string{"test-serviceaccount-static": e.NS}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	got, err := accounts.Get(e.Ctx, created.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, created.UID, got.UID)
	w := conformance.Observe[*corev1.ServiceAccount](t, e, accounts.Watch, metav1.ListOptions{LabelSelector: label})
	w.Until(watch.Added, "it is there", nil)
	patched, err := accounts.Patch(e.Ctx, created.Name, types.StrategicMergePatchType, []byte(`{"automountServiceAccountToken":false}`), metav1.PatchOptions{})
	require.NoError(t, err)
	conformance.Newer(t, patched, created)
	w.Until(watch.Modified, "it is changed", func(o *corev1.ServiceAccount) bool { return o.ResourceVersion == patched.ResourceVersion })
	l, err := e.Client.CoreV1().ServiceAccounts("").List(e.Ctx, metav1.ListOptions{LabelSelector: label})
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.Equal(t, e.NS, l.Items[0].Namespace)
	require.Equal(t, ptr.To(false), l.Items[0].AutomountServiceAccountToken)
	require.NoError(t, accounts.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	w.Until(watch.Deleted, "it is gone", nil)
}

func accountUpdate(t *testing.T, e *conformance.Env) {
	created := newAccount(t, e, "update", ptr.To(false))
	require.Equal(t, ptr.To(false), created.AutomountServiceAccountToken)
	updated := conformance.Update(t, e, e.Client.CoreV1().ServiceAccounts(e.NS), created.Name, func(o *corev1.ServiceAccount) {
		o.AutomountServiceAccountToken = ptr.To(true)
	})
	require.Equal(t, ptr.To(true), updated.AutomountServiceAccountToken)
}

func rootCA(t *testing.T, e *conformance.Env) {
	const name = "kube-root-ca.crt"
	maps := e.Client.CoreV1().ConfigMaps(e.NS)
	await := func(what string, is func(m *corev1.ConfigMap) bool) (got *corev1.ConfigMap) {
		conformance.Eventually(t, e, what, func() (bool, error) {
			m, err := maps.Get(e.Ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			got = m
			return err == nil && is(m), err
		})
		return got
	}
	first := await("there is a root certificate", func(m *corev1.ConfigMap) bool { return m.Data["ca.crt"] != "" })
	require.Equal(t, string(e.Config.CAData), first.Data["ca.crt"])
	require.NoError(t, maps.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	await("it is there again", func(m *corev1.ConfigMap) bool { return m.UID != first.UID && m.Data["ca.crt"] == first.Data["ca.crt"] })
	_, err := maps.Update(e.Ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"ca.crt": ""}}, metav1.UpdateOptions{})
	require.NoError(t, err)
	await("it is as it was", func(m *corev1.ConfigMap) bool { return m.Data["ca.crt"] == first.Data["ca.crt"] })
}

func tokenReview(t *testing.T, e *conformance.Env) {
	account := newAccount(t, e, "review", nil)
	r, err := e.Client.CoreV1().ServiceAccounts(e.NS).CreateToken(e.Ctx, account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, r.Status.Token)
	review := func(token string) authenticationv1.TokenReviewStatus {
		o, err := e.Client.AuthenticationV1().TokenReviews().Create(e.Ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		return o.Status
	}
	s := review(r.Status.Token)
	require.True(t, s.Authenticated)
	require.Empty(t, s.Error)
	require.Equal(t, "system:serviceaccount:"+e.NS+":"+account.Name, s.User.Username)
	require.Equal(t, string(account.UID), s.User.UID)
	require.False(t, review(r.Status.Token+"x").Authenticated)
}

func subjectReviews(t *testing.T, e *conformance.Env) {
	account := newAccount(t, e, "e2e", nil)
	name := "system:serviceaccount:" + e.NS + ":" + account.Name
	groups := []string{"system:authenticated", "system:serviceaccounts", "system:serviceaccounts:" + e.NS}
	as := e.Cluster.Client(t, func(c *rest.Config) {
		c.Impersonate = rest.ImpersonationConfig{UserName: name, UID: string(account.UID), Groups: groups}
	})
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: name, Groups: groups, UID: string(account.UID),
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "configmaps", Namespace: e.NS, Version: "v1"},
	}
	check := func(want bool) {
		r, err := e.Client.AuthorizationV1().SubjectAccessReviews().Create(e.Ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
		require.NoError(t, err)
		l, err := e.Client.AuthorizationV1().LocalSubjectAccessReviews(e.NS).Create(e.Ctx,
			&authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: e.NS}, Spec: spec}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = as.CoreV1().ConfigMaps(e.NS).List(e.Ctx, metav1.ListOptions{})
		require.Equal(t, !want, apierrors.IsForbidden(err), "%v", err)
		require.Equal(t, want, err == nil, "%v", err)
		require.Equal(t, want, r.Status.Allowed)
		require.Equal(t, want, l.Status.Allowed)
	}
	check(false)
	_, err := e.Client.RbacV1().RoleBindings(e.NS).Create(e.Ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "e2e"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: e.NS, Name: account.Name}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	conformance.Eventually(t, e, "the rights are known", func() (bool, error) {
		r, err := e.Client.AuthorizationV1().SubjectAccessReviews().Create(e.Ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
		return err == nil && r.Status.Allowed, err
	})
	check(true)
}

// issuerDiscovery verifies a pod's token with nothing but the documents that the issuer publishes, as the pod itself may read them.
func issuerDiscovery(t *testing.T, e *conformance.Env) {
	const role, audience = "system:service-account-issuer-discovery", "oidc-discovery-test"
	bindings := e.Client.RbacV1().ClusterRoleBindings()
	_, err := bindings.Create(e.Ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: e.NS + "-" + role}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: e.NS, Name: "default"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bindings.Delete(t.Context(), e.NS+"-"+role, metav1.DeleteOptions{}) })
	pod, err := e.Client.CoreV1().Pods(e.NS).Create(e.Ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "oidc-discovery-validator"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.k8s.io/pause:3.10"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	token := func(audiences ...string) string {
		r, err := e.Client.CoreV1().ServiceAccounts(e.NS).CreateToken(e.Ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: audiences, ExpirationSeconds: ptr.To[int64](600),
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
		}}, metav1.CreateOptions{})
		require.NoError(t, err)
		return r.Status.Token
	}
	config := rest.AnonymousClientConfig(e.Config)
	config.BearerToken = token()
	reader, err := rest.HTTPClientFor(config)
	require.NoError(t, err)
	fetch := func(url string, into any) {
		conformance.Eventually(t, e, "the document can be read", func() (bool, error) {
			resp, err := reader.Get(url)
			if err != nil {
				return false, err
			}
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode == http.StatusForbidden {
				return false, nil // the binding is new
			}
			require.Equal(t, http.StatusOK, resp.StatusCode)
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				return false, err
			}
			return true, json.Unmarshal(b, into)
		})
	}
	var doc struct {
		Issuer     string   `json:"issuer"`
		JWKS       string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	fetch(e.URL+"/.well-known/openid-configuration", &doc)
	var keys jose.JSONWebKeySet
	fetch(doc.JWKS, &keys)
	require.NotEmpty(t, keys.Keys)
	var algorithms []jose.SignatureAlgorithm
	for _, a := range doc.Algorithms {
		algorithms = append(algorithms, jose.SignatureAlgorithm(a))
	}
	raw := token(audience)
	parsed, err := jwt.ParseSigned(raw, algorithms)
	require.NoError(t, err)
	require.Len(t, parsed.Headers, 1)
	named := keys.Key(parsed.Headers[0].KeyID)
	require.Len(t, named, 1)
	require.True(t, named[0].IsPublic())
	var claims jwt.Claims
	require.NoError(t, parsed.Claims(named[0].Key, &claims))
	require.NoError(t, claims.Validate(jwt.Expected{Issuer: doc.Issuer, AnyAudience: jwt.Audience{audience}, Subject: "system:serviceaccount:" + e.NS + ":default"}))
	require.NotNil(t, claims.Expiry)
	forged := raw[:len(raw)-4] + "AAAA"
	parsed, err = jwt.ParseSigned(forged, algorithms)
	require.NoError(t, err)
	require.Error(t, parsed.Claims(named[0].Key, &claims))
}
