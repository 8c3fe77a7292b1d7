package controllers

import (
	"context"
	"slices"
	"strings"

	"go.uber.org/zap"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	applyrbacv1 "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// aggregationManager is who owns the rules of aggregated roles.
const aggregationManager = "clusterrole-aggregation-controller"

// aggregation gives aggregated cluster roles the rules of those that they gather.
type aggregation struct {
	*loop
	client kubernetes.Interface
	roles  cache.Indexer
}

// NewClusterRoleAggregation makes the controller of aggregated cluster roles: admin, edit, view and what users make of the kind.
func NewClusterRoleAggregation(client kubernetes.Interface, i informers.SharedInformerFactory, lg *zap.Logger) (Controller, error) {
	ri := i.Rbac().V1().ClusterRoles().Informer()
	a := &aggregation{loop: newLoop("clusterrole-aggregation", lg), client: client, roles: ri.GetIndexer()}
	a.sync = a.syncOne
	return a, a.watch(ri, objects(func(*rbacv1.ClusterRole) { a.addAll() }))
}

// Run works until ctx ends.
func (a *aggregation) Run(ctx context.Context) error { return a.run(ctx, 2) }

// addAll queues all aggregated roles: any of them may gather what has changed, or what has ceased to match.
func (a *aggregation) addAll() {
	for _, x := range a.roles.List() {
		if r := x.(*rbacv1.ClusterRole); gathers(r) {
			a.queue.Add(r.Name)
		}
	}
}

func gathers(r *rbacv1.ClusterRole) bool {
	return r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

func (a *aggregation) syncOne(ctx context.Context, name string) error {
	x, exists, err := a.roles.GetByKey(name)
	if err != nil || !exists {
		return err
	}
	r := x.(*rbacv1.ClusterRole)
	if !gathers(r) {
		return nil
	}
	rules, err := a.gather(r)
	if err != nil {
		a.lg.Warn("a selector of an aggregated role is broken", zap.String("role", name), zap.Error(err))
		return nil
	}
	if equality.Semantic.DeepEqual(r.Rules, rules) {
		return nil
	}
	apply := applyrbacv1.ClusterRole(name)
	for i := range rules {
		p := &rules[i]
		apply.WithRules(applyrbacv1.PolicyRule().WithVerbs(p.Verbs...).WithAPIGroups(p.APIGroups...).WithResources(p.Resources...).
			WithResourceNames(p.ResourceNames...).WithNonResourceURLs(p.NonResourceURLs...))
	}
	if len(rules) == 0 {
		apply.Rules = []applyrbacv1.PolicyRuleApplyConfiguration{}
	}
	_, err = a.client.RbacV1().ClusterRoles().Apply(ctx, apply, metav1.ApplyOptions{FieldManager: aggregationManager, Force: true})
	return ignoreMissing(err)
}

// gather returns the rules of the other roles that a selector of a role selects, in the order of selectors and of names, each
// rule once.
func (a *aggregation) gather(r *rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	var all []*rbacv1.ClusterRole
	for _, x := range a.roles.List() {
		all = append(all, x.(*rbacv1.ClusterRole))
	}
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	rules := []rbacv1.PolicyRule{}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&r.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, from := range all {
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
	return rules, nil
}
