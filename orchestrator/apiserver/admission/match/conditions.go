package match

import (
	"context"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	celplugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// Compiler compiles the match conditions of webhooks.
type Compiler struct {
	// environment is made when the first condition comes: most clusters have none.
	environment func() celplugin.ConditionCompiler
}

// NewCompiler makes a Compiler.
func NewCompiler() *Compiler {
	return &Compiler{environment: sync.OnceValue(func() celplugin.ConditionCompiler {
		return celplugin.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	})}
}

// Compile returns what evaluates the conditions of a webhook, nil if there are none. Errors in expressions are told when they
// are evaluated. Stage is "admit" or "validating".
func (c *Compiler) Compile(conditions []admissionv1.MatchCondition, policy *admissionv1.FailurePolicyType, stage, name string) matchconditions.Matcher {
	if len(conditions) == 0 {
		return nil
	}
	expressions := make([]celplugin.ExpressionAccessor, len(conditions))
	for i := range conditions {
		expressions[i] = (*matchconditions.MatchCondition)(&conditions[i])
	}
	evaluator := c.environment().CompileCondition(expressions, celplugin.OptionalVariableDeclarations{HasAuthorizer: true}, environment.StoredExpressions)
	return matchconditions.NewMatcher(evaluator, policy, "webhook", stage, name)
}

// Authorizer asks an authorizer of ours in the terms of k8s.io/apiserver. Nil has no opinion on anything.
func Authorizer(a rights.Authorizer) authorizer.UnconditionalAuthorizer { return adapter{a} }

type adapter struct{ of rights.Authorizer }

func (d adapter) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if d.of == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	q := rights.Attributes{
		Verb: a.GetVerb(), IsResource: a.IsResourceRequest(), Path: a.GetPath(), Group: a.GetAPIGroup(), Version: a.GetAPIVersion(),
		Resource: a.GetResource(), Subresource: a.GetSubresource(), Namespace: a.GetNamespace(), Name: a.GetName(),
	}
	if u := a.GetUser(); u != nil {
		q.User = &request.User{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: u.GetExtra()}
	}
	// A selector that cannot be read narrows nothing.
	if f, err := a.GetFieldSelector(); err == nil {
		q.Fields = f
	}
	if l, err := a.GetLabelSelector(); err == nil {
		q.Labels = l
	}
	decision, reason, err := d.of.Authorize(ctx, q)
	switch decision {
	case rights.Allow:
		return authorizer.DecisionAllow, reason, err
	case rights.Deny:
		return authorizer.DecisionDeny, reason, err
	}
	return authorizer.DecisionNoOpinion, reason, err
}
