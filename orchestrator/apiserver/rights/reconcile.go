package rights

import (
	"fmt"
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Operation is what brings an object to what it has to be.
type Operation int

// The operations.
const (
	Keep     Operation = iota
	Update             // write the returned object
	Recreate           // delete the object and create the returned one: the role of a binding cannot be changed
)

// Reconcile says how a role or binding that is there gets what the expected one has. What it has beyond that stays, as do its
// own values of labels and annotations. One that users have taken out of it (autoupdate: "false") is kept.
func Reconcile(existing, expected kinds.Object) (kinds.Object, Operation, error) {
	if existing.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return existing, Keep, nil
	}
	result := existing.DeepCopyObject().(kinds.Object)
	result.SetLabels(merge(expected.GetLabels(), existing.GetLabels()))
	result.SetAnnotations(merge(expected.GetAnnotations(), existing.GetAnnotations()))
	same := true
	switch r := result.(type) {
	case *rbacv1.ClusterRole:
		e, ok := expected.(*rbacv1.ClusterRole)
		if same = ok; ok {
			r.Rules = append(r.Rules, Missing(r.Rules, e.Rules)...)
			r.AggregationRule = mergeAggregation(r.AggregationRule, e.AggregationRule)
		}
	case *rbacv1.Role:
		e, ok := expected.(*rbacv1.Role)
		if same = ok; ok {
			r.Rules = append(r.Rules, Missing(r.Rules, e.Rules)...)
		}
	case *rbacv1.ClusterRoleBinding:
		e, ok := expected.(*rbacv1.ClusterRoleBinding)
		if same = ok; ok {
			if r.RoleRef != e.RoleRef {
				return expected, Recreate, nil
			}
			r.Subjects = mergeSubjects(r.Subjects, e.Subjects)
		}
	case *rbacv1.RoleBinding:
		e, ok := expected.(*rbacv1.RoleBinding)
		if same = ok; ok {
			if r.RoleRef != e.RoleRef {
				return expected, Recreate, nil
			}
			r.Subjects = mergeSubjects(r.Subjects, e.Subjects)
		}
	default:
		return nil, Keep, fmt.Errorf("rights: cannot reconcile %T", existing)
	}
	if !same {
		return nil, Keep, fmt.Errorf("rights: cannot reconcile %T with %T", existing, expected)
	}
	if equality.Semantic.DeepEqual(existing, result) {
		return existing, Keep, nil
	}
	return result, Update, nil
}

// merge returns the entries of both maps, those of the second where both have one.
func merge(a, b map[string]string) map[string]string {
	if a == nil && b == nil {
		return nil
	}
	m := map[string]string{}
	maps.Copy(m, a)
	maps.Copy(m, b)
	return m
}

func mergeAggregation(have, want *rbacv1.AggregationRule) *rbacv1.AggregationRule {
	if want == nil || have == nil {
		return want.DeepCopy()
	}
	for _, s := range want.ClusterRoleSelectors {
		same := func(o metav1.LabelSelector) bool { return equality.Semantic.DeepEqual(o, s) }
		if !slices.ContainsFunc(have.ClusterRoleSelectors, same) {
			have.ClusterRoleSelectors = append(have.ClusterRoleSelectors, *s.DeepCopy())
		}
	}
	return have
}

func mergeSubjects(have, want []rbacv1.Subject) []rbacv1.Subject {
	for _, s := range want {
		if !slices.Contains(have, s) {
			have = append(have, s)
		}
	}
	return have
}
