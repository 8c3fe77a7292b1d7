package rights

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// aggregated reports whether a role gathers the rules of others.
func aggregated(r *rbacv1.ClusterRole) bool {
	return r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

// Aggregate returns the rules that an aggregated role has: those of the other roles that one of its selectors selects, in the
// order of selectors and of names, each rule once. It is false for a role that gathers nothing.
func Aggregate(r *rbacv1.ClusterRole, roles []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, bool, error) {
	if !aggregated(r) {
		return nil, false, nil
	}
	sorted := slices.SortedFunc(slices.Values(roles), func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	rules := []rbacv1.PolicyRule{}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&r.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, true, err
		}
		for _, from := range sorted {
			if from.Name == r.Name || !selector.Matches(labels.Set(from.Labels)) {
				continue
			}
			for _, rule := range from.Rules {
				same := func(o rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(o, rule) }
				if !slices.ContainsFunc(rules, same) {
					rules = append(rules, *rule.DeepCopy())
				}
			}
		}
	}
	return rules, true, nil
}
