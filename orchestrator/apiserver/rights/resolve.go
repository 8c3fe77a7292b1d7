package rights

import (
	"context"
	"errors"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Authorize allows what a rule allows and has no opinion otherwise.
func (p *Policy) Authorize(_ context.Context, a Attributes) (Decision, string, error) {
	if a.User == nil {
		return NoOpinion, "", nil
	}
	q := ask(&a)
	broken := false
	try := func(grants []grant) string {
		for i := range grants {
			rules := grants[i].rules()
			if rules == nil {
				broken = true
			} else if rules.allows(q) {
				return grants[i].reason
			}
		}
		return ""
	}
	for _, namespace := range [...]string{"", a.Namespace} {
		s := p.scope(namespace)
		if s == nil {
			continue
		}
		if reason := try(s.users[a.User.Name]); reason != "" {
			return Allow, reason, nil
		}
		for _, group := range a.User.Groups {
			if reason := try(s.groups[group]); reason != "" {
				return Allow, reason, nil
			}
		}
		if a.Namespace == "" {
			break
		}
	}
	if !broken {
		return NoOpinion, "", nil
	}
	_, err := p.RulesFor(a.User, a.Namespace)
	if err == nil { // the role came meanwhile
		return NoOpinion, "", nil
	}
	return NoOpinion, "RBAC: " + err.Error(), nil
}

// rules are those that the binding refers to, nil if there are none.
func (b *binding) rules() *ruleset {
	if b.cell == nil {
		return nil
	}
	return b.cell.rules.Load()
}

// missing says what is wrong with a binding that has no rules.
func (b *binding) missing() error { return missingRole(b.ref) }

func missingRole(ref rbacv1.RoleRef) error {
	switch ref.Kind {
	case "Role":
		return fmt.Errorf("role.rbac.authorization.k8s.io %q not found", ref.Name)
	case "ClusterRole":
		return fmt.Errorf("clusterrole.rbac.authorization.k8s.io %q not found", ref.Name)
	}
	return fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// RulesFor returns the rules that a user has in a namespace, or cluster-wide if it is "". An error tells of bindings to roles
// that are not there; the rules of the others are returned with it.
func (p *Policy) RulesFor(u *request.User, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	var errs []error
	seen := map[*binding]bool{}
	add := func(grants []grant) {
		for _, g := range grants {
			if seen[g.binding] {
				continue
			}
			seen[g.binding] = true
			if r := g.rules(); r != nil {
				rules = append(rules, r.source...)
			} else {
				errs = append(errs, g.missing())
			}
		}
	}
	for _, where := range []string{"", namespace} {
		if s := p.scope(where); s != nil {
			add(s.users[u.Name])
			for _, group := range u.Groups {
				add(s.groups[group])
			}
		}
		if namespace == "" {
			break
		}
	}
	if len(errs) == 0 {
		return rules, nil
	}
	return rules, utilerrors.NewAggregate(errs)
}

// Review answers a SelfSubjectRulesReview. What Privileged allows is in no rule; the default policy has it as one, too.
func (p *Policy) Review(u *request.User, namespace string) authorizationv1.SubjectRulesReviewStatus {
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	rules, err := p.RulesFor(u, namespace)
	for _, r := range rules {
		if len(r.Resources) > 0 {
			status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames,
			})
		}
		if len(r.NonResourceURLs) > 0 {
			status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{
				Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs,
			})
		}
	}
	// A kubelet has more than its rules say.
	if _, status.Incomplete = NodeOf(u); status.Incomplete {
		err = errors.Join(err, errors.New("node authorizer does not support user rule resolution"))
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func member(u *request.User, group string) bool {
	for _, g := range u.Groups {
		if g == group {
			return true
		}
	}
	return false
}

// NodesGroup is the group of kubelets; their names are "system:node:" and the node's.
const NodesGroup = "system:nodes"

const nodePrefix = "system:node:"

// NodeOf returns the name of the node whose kubelet a user is.
func NodeOf(u *request.User) (string, bool) {
	if u == nil || !member(u, NodesGroup) {
		return "", false
	}
	name, ok := strings.CutPrefix(u.Name, nodePrefix)
	return name, ok && name != ""
}
