package kinds

import (
	"fmt"
	"strings"
	"sync"

	celgo "github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// expressions compiles the expressions of an object to say what is wrong with them.
type expressions struct {
	compile compileFunc
	params  bool
	// stored are those that the object had before. They were accepted, maybe by a newer server, and may use what that knows.
	stored map[string]bool
}

type compileFunc func(plugincel.ExpressionAccessor, plugincel.OptionalVariableDeclarations, environment.Type) plugincel.CompilationResult

// celCompiler compiles expressions that use no variables of a policy. It is made when the first expression comes: that takes
// milliseconds, and most clusters have none.
type celCompiler func() plugincel.Compiler

func newCELCompiler() celCompiler {
	return sync.OnceValue(func() plugincel.Compiler {
		return plugincel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	})
}

// expressions returns what compiles the expressions of an object that uses no variables. stored are its expressions before.
func (c celCompiler) expressions(params bool, stored []string) *expressions {
	x := &expressions{params: params, stored: map[string]bool{}}
	x.compile = func(e plugincel.ExpressionAccessor, d plugincel.OptionalVariableDeclarations, t environment.Type) plugincel.CompilationResult {
		return c().CompileCELExpression(e, d, t)
	}
	for _, e := range stored {
		x.stored[e] = true
	}
	return x
}

// composed lets expressions that are checked from now on use variables, which it checks.
func (x *expressions) composed(p *problems, at *field.Path, variables []admissionv1.Variable) *expressions {
	c, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		p.add(field.InternalError(at, err))
		return x
	}
	out := *x
	out.compile = func(e plugincel.ExpressionAccessor, d plugincel.OptionalVariableDeclarations, t environment.Type) plugincel.CompilationResult {
		if v, ok := e.(plugincel.NamedExpressionAccessor); ok {
			return c.CompileAndStoreVariable(v, d, t)
		}
		return c.CompileCELExpression(e, d, t)
	}
	p.variables(at, variables, &out)
	return &out
}

// check adds what is wrong with an expression.
func (x *expressions) check(p *problems, at *field.Path, e plugincel.ExpressionAccessor, d plugincel.OptionalVariableDeclarations) {
	kind := environment.NewExpressions
	if x.stored[e.GetExpression()] {
		kind = environment.StoredExpressions
	}
	d.HasParams = x.params
	switch err := x.compile(e, d, kind).Error; {
	case err == nil:
	case err.Type == cel.ErrorTypeRequired:
		p.required(at, err.Detail)
	case err.Type == cel.ErrorTypeInvalid:
		p.invalid(at, e.GetExpression(), err.Detail)
	default:
		p.add(field.InternalError(at, fmt.Errorf("compile: %w", err)))
	}
}

// text is an expression with the types that it may have.
type text struct {
	source string
	types  []*celgo.Type
}

// GetExpression returns the source.
func (t text) GetExpression() string { return t.source }

// ReturnTypes returns the types.
func (t text) ReturnTypes() []*celgo.Type { return t.types }

// variable is the expression of a variable.
type variable struct {
	text
	name string
}

// GetName returns the name.
func (v variable) GetName() string { return v.name }

// authorized is for expressions that may ask what the user may do.
func authorized() plugincel.OptionalVariableDeclarations {
	return plugincel.OptionalVariableDeclarations{HasAuthorizer: true}
}

func (x *expressions) condition(p *problems, at *field.Path, source string) {
	x.check(p, at, text{source, []*celgo.Type{celgo.BoolType}}, authorized())
}

func (x *expressions) variable(p *problems, at *field.Path, v *admissionv1.Variable) {
	x.check(p, at, variable{text{v.Expression, []*celgo.Type{celgo.AnyType, celgo.DynType}}, v.Name}, authorized())
}

// message must not depend on what the user may do.
func (x *expressions) message(p *problems, at *field.Path, source string) {
	x.check(p, at, text{source, []*celgo.Type{celgo.StringType}}, plugincel.OptionalVariableDeclarations{})
}

func (x *expressions) annotation(p *problems, at *field.Path, source string) {
	x.check(p, at, text{source, []*celgo.Type{celgo.StringType, celgo.NullType}}, authorized())
}

// patch checks an expression that makes a patch.
func (x *expressions) patch(p *problems, at *field.Path, e plugincel.ExpressionAccessor) {
	d := authorized()
	d.HasPatchTypes = true
	x.check(p, at, e, d)
}

// hookExpressions are the expressions of webhooks.
func hookExpressions(hooks []hook) (l []string) {
	for i := range hooks {
		l = append(l, conditionExpressions(hooks[i].conditions)...)
	}
	return l
}

func conditionExpressions(conditions []admissionv1.MatchCondition) (l []string) {
	for _, c := range conditions {
		l = append(l, strings.TrimSpace(c.Expression))
	}
	return l
}

// validatingExpressions and mutatingExpressions are the expressions of policies, nil: of none.
func validatingExpressions(o *admissionv1.ValidatingAdmissionPolicy) []string {
	if o == nil {
		return nil
	}
	l := conditionExpressions(o.Spec.MatchConditions)
	for _, v := range o.Spec.Variables {
		l = append(l, v.Expression)
	}
	for _, v := range o.Spec.Validations {
		l = append(l, v.Expression, v.MessageExpression)
	}
	for _, a := range o.Spec.AuditAnnotations {
		l = append(l, strings.TrimSpace(a.ValueExpression))
	}
	return l
}

func mutatingExpressions(o *admissionv1.MutatingAdmissionPolicy) []string {
	if o == nil {
		return nil
	}
	l := conditionExpressions(o.Spec.MatchConditions)
	for _, v := range o.Spec.Variables {
		l = append(l, v.Expression)
	}
	for _, m := range o.Spec.Mutations {
		if m.ApplyConfiguration != nil {
			l = append(l, strings.TrimSpace(m.ApplyConfiguration.Expression))
		}
		if m.JSONPatch != nil {
			l = append(l, strings.TrimSpace(m.JSONPatch.Expression))
		}
	}
	return l
}
