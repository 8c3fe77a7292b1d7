package match

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
)

type namedRule = admissionv1.NamedRuleWithOperations

// Criteria say which requests something is about.
type Criteria struct {
	namespaces, objects       labels.Selector
	namespacesErr, objectsErr error
	include, exclude          []namedRule
	everything                bool // no rules mean all requests
	equivalent                bool
}

// ForWebhook returns the criteria of a webhook. Without rules it is about nothing.
func ForWebhook(rules []admissionv1.RuleWithOperations, policy *admissionv1.MatchPolicyType, namespaces, objects *metav1.LabelSelector) *Criteria {
	c := newCriteria(policy, namespaces, objects)
	for _, r := range rules {
		c.include = append(c.include, namedRule{RuleWithOperations: r})
	}
	return c
}

// ForResources returns the criteria of an admission policy or its binding. Without rules it is about everything.
func ForResources(m *admissionv1.MatchResources) *Criteria {
	if m == nil {
		m = &admissionv1.MatchResources{}
	}
	c := newCriteria(m.MatchPolicy, m.NamespaceSelector, m.ObjectSelector)
	c.include, c.exclude, c.everything = m.ResourceRules, m.ExcludeResourceRules, len(m.ResourceRules) == 0
	return c
}

func newCriteria(policy *admissionv1.MatchPolicyType, namespaces, objects *metav1.LabelSelector) *Criteria {
	c := &Criteria{equivalent: policy != nil && *policy == admissionv1.Equivalent}
	c.namespaces, c.namespacesErr = selector(namespaces)
	c.objects, c.objectsErr = selector(objects)
	return c
}

// selector is everything for nil: what an API server's defaults make of it.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, fmt.Errorf("label selector: %w", err)
	}
	return out, nil
}

// anyRule says whether one of the rules is about a request if its resource were another one.
func anyRule(rules []namedRule, a *admission.Attributes, r schema.GroupVersionResource) bool {
	return slices.ContainsFunc(rules, func(rule namedRule) bool { return ruleMatches(&rule, a, r) })
}

func ruleMatches(rule *namedRule, a *admission.Attributes, r schema.GroupVersionResource) bool {
	return inScope(rule.Scope, a, r) &&
		slices.ContainsFunc(rule.Operations, func(op admissionv1.OperationType) bool {
			return op == admissionv1.OperationAll || op == admissionv1.OperationType(a.Operation)
		}) &&
		hasOrAll(rule.APIGroups, r.Group) && hasOrAll(rule.APIVersions, r.Version) &&
		slices.ContainsFunc(rule.Resources, func(s string) bool {
			resource, sub, _ := strings.Cut(s, "/")
			return (resource == "*" || resource == r.Resource) && (sub == "*" || sub == a.Subresource)
		}) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.Name))
}

// inScope treats namespaces as cluster-scoped, although requests for them have their name as the namespace.
func inScope(scope *admissionv1.ScopeType, a *admission.Attributes, r schema.GroupVersionResource) bool {
	if scope == nil || *scope == admissionv1.AllScopes {
		return true
	}
	cluster := a.Namespace == "" || r == schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	switch *scope {
	case admissionv1.ClusterScope:
		return cluster
	case admissionv1.NamespacedScope:
		return !cluster
	}
	return false
}

func hasOrAll(items []string, s string) bool {
	return slices.Contains(items, "*") || slices.Contains(items, s)
}
