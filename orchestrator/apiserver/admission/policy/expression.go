package policy

import (
	celgo "github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	celplugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

// expression is a source text with a name and the types that it may have.
type expression struct {
	name, text string
	types      []*celgo.Type
}

// GetName returns the name.
func (e *expression) GetName() string { return e.name }

// GetExpression returns the text.
func (e *expression) GetExpression() string { return e.text }

// ReturnTypes returns the types.
func (e *expression) ReturnTypes() []*celgo.Type { return e.types }

// compiler compiles the expressions of one policy: they share its variables.
type compiler struct {
	*celplugin.CompositedCompiler
	declared celplugin.OptionalVariableDeclarations
}

func newCompiler(variables []admissionv1.Variable, params bool) (*compiler, error) {
	c, err := celplugin.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, err
	}
	out := &compiler{c, celplugin.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}}
	for _, v := range variables {
		c.CompileAndStoreVariable(&expression{v.Name, v.Expression, []*celgo.Type{celgo.AnyType, celgo.DynType}}, out.declared, environment.StoredExpressions)
	}
	return out, nil
}

// all compiles expressions, of which some may be nil. Errors are told when they are evaluated.
func (c *compiler) all(expressions []celplugin.ExpressionAccessor) celplugin.ConditionEvaluator {
	return c.CompileCondition(expressions, c.declared, environment.StoredExpressions)
}

// conditions compiles match conditions, nil if there are none. Stage is "validate" or "admit".
func (c *compiler) conditions(all []admissionv1.MatchCondition, policy *admissionv1.FailurePolicyType, stage, name string) matchconditions.Matcher {
	if len(all) == 0 {
		return nil
	}
	expressions := make([]celplugin.ExpressionAccessor, len(all))
	for i := range all {
		expressions[i] = (*matchconditions.MatchCondition)(&all[i])
	}
	return matchconditions.NewMatcher(c.all(expressions), policy, "policy", stage, name)
}
