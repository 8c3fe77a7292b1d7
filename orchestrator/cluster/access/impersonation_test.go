package access

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

func rule(verb, group, resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
}

// robot makes a service account with some rights in all of the cluster, and returns how to be it.
func robot(t *testing.T, c *clustertest.Cluster, ns, name string, rules ...rbacv1.PolicyRule) func(r *rest.Config) {
	client := c.Client(t, nil)
	newAccount(t, client, ns, name)
	grant(t, client, ns+"-"+name, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: name}, rules...)
	be := bearer(token(t, client, ns, name, nil))
	if len(rules) == 0 {
		return be
	}
	awaitRights(t, as(t, c, be), rules...)
	return be
}

// grant gives rights by a cluster role and a binding, which are removed after the test.
func grant(t *testing.T, client kubernetes.Interface, name string, to rbacv1.Subject, rules ...rbacv1.PolicyRule) {
	roles, bindings := client.RbacV1().ClusterRoles(), client.RbacV1().ClusterRoleBindings()
	_, err := roles.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = bindings.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{to}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = bindings.Delete(context.Background(), name, metav1.DeleteOptions{})
		_ = roles.Delete(context.Background(), name, metav1.DeleteOptions{})
	})
}

// awaitRights waits until rules are known to who authorizes.
func awaitRights(t *testing.T, client kubernetes.Interface, rules ...rbacv1.PolicyRule) {
	last := rules[len(rules)-1]
	a := &authorizationv1.ResourceAttributes{Verb: last.Verbs[0], Group: last.APIGroups[0], Resource: last.Resources[0]}
	if len(last.ResourceNames) > 0 {
		a.Name = last.ResourceNames[0]
	}
	require.Eventually(t, func() bool {
		r, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: a},
		}, metav1.CreateOptions{})
		return err == nil && r.Status.Allowed
	}, patience, 10*time.Millisecond)
}

func acting(be func(r *rest.Config), as rest.ImpersonationConfig) func(r *rest.Config) {
	return func(r *rest.Config) {
		be(r)
		r.Impersonate = as
	}
}

func impersonation(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	be := robot(t, c, ns, "actor",
		rule("impersonate", "", "users", "jane"), rule("impersonate", "", "groups", "dev"),
		rule("impersonate", "authentication.k8s.io", "uids", "7"), rule("impersonate", "authentication.k8s.io", "userextras/scopes", "view"))
	u := whoami(t, c, acting(be, rest.ImpersonationConfig{UserName: "jane", UID: "7", Groups: []string{"dev"}, Extra: map[string][]string{"scopes": {"view"}}}))
	require.Equal(t, "jane", u.Username)
	require.Equal(t, "7", u.UID)
	require.ElementsMatch(t, []string{"dev", "system:authenticated"}, u.Groups)
	require.Equal(t, []string{"view"}, []string(u.Extra["scopes"]))
	for name, wanted := range map[string]rest.ImpersonationConfig{
		"user":  {UserName: "joe"},
		"group": {UserName: "jane", Groups: []string{"dev", "system:masters"}},
		"uid":   {UserName: "jane", UID: "8"},
		"extra": {UserName: "jane", Extra: map[string][]string{"scopes": {"edit"}}},
		"key":   {UserName: "jane", Extra: map[string][]string{"colours": {"view"}}},
	} {
		_, err := whoamiErr(t, c, acting(be, wanted))
		require.True(t, apierrors.IsForbidden(err), "%s: %v", name, err)
		require.ErrorContains(t, err, "cannot impersonate", name)
	}
	// The rights are those of the one whom the other acts for.
	_, err := as(t, c, acting(be, rest.ImpersonationConfig{UserName: "jane"})).CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, `User "jane" cannot list`)
}

// narrowImpersonation acts for a user in one thing only.
func narrowImpersonation(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	be := robot(t, c, ns, "narrow",
		rule("impersonate-on:user-info:list", "", "configmaps"),
		rule("impersonate:user-info", "authentication.k8s.io", "users", "narrow-jane"))
	grant(t, c.Client(t, nil), ns+"-jane", rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "narrow-jane"},
		rule("list", "", "configmaps"), rule("list", "", "secrets"))
	jane := as(t, c, acting(be, rest.ImpersonationConfig{UserName: "narrow-jane"}))
	require.Eventually(t, func() bool {
		_, err := jane.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil
	}, patience, 10*time.Millisecond)
	_, err := jane.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	_, err = as(t, c, acting(be, rest.ImpersonationConfig{UserName: "joe"})).CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
}
