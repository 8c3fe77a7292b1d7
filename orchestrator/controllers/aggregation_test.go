package controllers

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestClusterRoleAggregation(t *testing.T) {
	rule := func(verb string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{""}, Resources: []string{"pods"}}
	}
	role := func(name, label string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}, Rules: rules}
	}
	gathering := func(name, label, from string) *rbacv1.ClusterRole {
		r := role(name, label)
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": from}}}}
		return r
	}
	broken := gathering("broken", "", "")
	broken.AggregationRule.ClusterRoleSelectors[0].MatchExpressions = []metav1.LabelSelectorRequirement{{Operator: "?"}}
	w := newWorld(t, gathering("admin", "", "admin"), gathering("edit", "admin", "edit"), broken,
		role("b", "edit", rule("get"), rule("list")), role("a", "edit", rule("update"), rule("get")), role("other", "x", rule("delete")))
	c, err := NewClusterRoleAggregation(w.client, w.factory, nil)
	require.NoError(t, err)
	w.run(c)
	await := func(name string, want ...rbacv1.PolicyRule) {
		t.Helper()
		eventually(t, func() error {
			r, err := w.client.RbacV1().ClusterRoles().Get(w.ctx, name, metav1.GetOptions{})
			if err == nil && !equality.Semantic.DeepEqual(r.Rules, want) {
				return fmt.Errorf("%s: %v", name, r.Rules)
			}
			return err
		})
	}
	await("edit", rule("update"), rule("get"), rule("list"))
	await("admin", rule("update"), rule("get"), rule("list"))

	_, err = w.client.RbacV1().ClusterRoles().Create(w.ctx, role("c", "edit", rule("watch")), metav1.CreateOptions{})
	require.NoError(t, err)
	await("admin", rule("update"), rule("get"), rule("list"), rule("watch"))
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, w.client.RbacV1().ClusterRoles().Delete(w.ctx, name, metav1.DeleteOptions{}))
	}
	await("admin")
	await("broken")
}
