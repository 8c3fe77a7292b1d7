package rights

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// ConfirmNoEscalation is an error if a user has not, in a namespace or cluster-wide for "", all that some rules give.
func (p *Policy) ConfirmNoEscalation(u *request.User, namespace string, rules []rbacv1.PolicyRule) error {
	owned, broken := p.RulesFor(u, namespace)
	missing := Missing(owned, rules)
	if len(missing) == 0 {
		return nil
	}
	var lines []string
	for _, r := range compact(missing) {
		lines = append(lines, describe(&r))
	}
	slices.Sort(lines)
	msg := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.Name, u.Groups, strings.Join(slices.Compact(lines), "\n"))
	if broken != nil {
		msg += fmt.Sprintf("; resolution errors: %v", []error{broken})
	}
	return errors.New(msg)
}

// Guard keeps users from giving, by roles and bindings, rights that they have not.
type Guard struct {
	Policy *Policy
	// Authorizer is asked for the verbs "escalate" and "bind".
	Authorizer Authorizer
	// Rules returns those that a binding in a namespace, "" for none, would give now. What Policy knows may be a moment old: a
	// role that was just made would not be found.
	Rules func(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error)
}

// all is every right there is.
func all() []rbacv1.PolicyRule {
	every := []string{"*"}
	return []rbacv1.PolicyRule{
		{Verbs: every, APIGroups: every, Resources: every},
		{Verbs: every, NonResourceURLs: every},
	}
}

// Check says whether a user may write a role or a binding, with an error for the client. Old is nil at a creation. The
// namespace is the request's, for the object's may not have been set yet. Other objects pass.
func (g *Guard) Check(ctx context.Context, u *request.User, namespace string, o, old kinds.Object) error {
	if u == nil || member(u, Masters) || old != nil && onlyCollection(o, old) {
		return nil
	}
	switch o := o.(type) {
	case *rbacv1.ClusterRole:
		before, _ := old.(*rbacv1.ClusterRole)
		return g.clusterRole(ctx, u, o, before)
	case *rbacv1.Role:
		return g.role(ctx, u, namespace, "roles", o.Name, o.Rules)
	case *rbacv1.ClusterRoleBinding:
		return g.binding(ctx, u, "", "clusterrolebindings", o.Name, o.RoleRef)
	case *rbacv1.RoleBinding:
		return g.binding(ctx, u, namespace, "rolebindings", o.Name, o.RoleRef)
	}
	return nil
}

func (g *Guard) clusterRole(ctx context.Context, u *request.User, o, old *rbacv1.ClusterRole) error {
	if g.may(ctx, u, "escalate", "", "clusterroles", o.Name) {
		return nil
	}
	if err := g.Policy.ConfirmNoEscalation(u, "", o.Rules); err != nil {
		return forbidden("clusterroles", o.Name, err)
	}
	// An aggregation rule can gather anything.
	if (aggregated(o) || old != nil && aggregated(old)) && g.Policy.ConfirmNoEscalation(u, "", all()) != nil {
		return forbidden("clusterroles", o.Name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func (g *Guard) role(ctx context.Context, u *request.User, namespace, resource, name string, rules []rbacv1.PolicyRule) error {
	if g.may(ctx, u, "escalate", namespace, resource, name) {
		return nil
	}
	if err := g.Policy.ConfirmNoEscalation(u, namespace, rules); err != nil {
		return forbidden(resource, name, err)
	}
	return nil
}

func (g *Guard) binding(ctx context.Context, u *request.User, namespace, resource, name string, ref rbacv1.RoleRef) error {
	resources := map[string]string{"ClusterRole": "clusterroles", "Role": "roles"}[ref.Kind]
	if resources != "" && g.may(ctx, u, "bind", namespace, resources, ref.Name) {
		return nil
	}
	if resources == "" {
		return apierrors.NewBadRequest(missingRole(ref).Error())
	}
	rules, err := g.Rules(ctx, ref, namespace)
	if err != nil {
		return err
	}
	if err := g.Policy.ConfirmNoEscalation(u, namespace, rules); err != nil {
		return forbidden(resource, name, err)
	}
	return nil
}

// may asks for one of RBAC's own verbs. An error is no permission: the rules are compared then.
func (g *Guard) may(ctx context.Context, u *request.User, verb, namespace, resource, name string) bool {
	d, _, _ := g.Authorizer.Authorize(ctx, Attributes{
		User: u, Verb: verb, IsResource: true, Group: rbacv1.GroupName, Version: "*",
		Resource: resource, Namespace: namespace, Name: name,
	})
	return d == Allow
}

func forbidden(resource, name string, err error) error {
	return apierrors.NewForbidden(schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}, name, err)
}

// onlyCollection reports whether a change is in nothing but what garbage collection writes.
func onlyCollection(o, old kinds.Object) bool {
	c, ok := o.DeepCopyObject().(kinds.Object)
	if !ok {
		return false
	}
	c.SetOwnerReferences(old.GetOwnerReferences())
	c.SetFinalizers(old.GetFinalizers())
	c.SetSelfLink(old.GetSelfLink())
	c.SetManagedFields(old.GetManagedFields())
	return equality.Semantic.DeepEqual(c, old)
}

// aggregated reports whether a role gathers the rules of others.
func aggregated(r *rbacv1.ClusterRole) bool {
	return r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}
