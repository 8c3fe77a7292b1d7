package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	celgo "github.com/google/cel-go/cel"
	celtypes "github.com/google/cel-go/common/types"
	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	celplugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
)

// validator is the compiled expressions of a validating policy.
type validator struct {
	err         error                   // nothing was compiled
	conditions  matchconditions.Matcher // nil: none
	validations []admissionv1.Validation
	results     celplugin.ConditionEvaluator // one for each validation
	messages    celplugin.ConditionEvaluator // one for each validation, or none
	annotations celplugin.ConditionEvaluator
}

func newValidator(o *admissionv1.ValidatingAdmissionPolicy) *validator {
	c, err := newCompiler(o.Spec.Variables, o.Spec.ParamKind != nil)
	if err != nil {
		return &validator{err: err}
	}
	v := &validator{validations: o.Spec.Validations, conditions: c.conditions(o.Spec.MatchConditions, o.Spec.FailurePolicy, "validate", o.Name)}
	results, messages := make([]celplugin.ExpressionAccessor, len(v.validations)), make([]celplugin.ExpressionAccessor, len(v.validations))
	for i := range v.validations {
		results[i] = &expression{text: v.validations[i].Expression, types: []*celgo.Type{celgo.BoolType}}
		if m := v.validations[i].MessageExpression; m != "" {
			messages[i] = &expression{text: m, types: []*celgo.Type{celgo.StringType}}
		}
	}
	var annotations []celplugin.ExpressionAccessor
	for _, a := range o.Spec.AuditAnnotations {
		annotations = append(annotations, &expression{a.Key, a.ValueExpression, []*celgo.Type{celgo.StringType, celgo.NullType}})
	}
	v.results, v.annotations = c.all(results), c.all(annotations)
	// Messages must not depend on who is allowed what.
	v.messages = c.CompileCondition(messages, celplugin.OptionalVariableDeclarations{HasParams: c.declared.HasParams}, environment.StoredExpressions)
	return v
}

// finding is what a validation came to, if the object does not pass, or what went wrong.
type finding struct {
	index  int // of the validation
	reason metav1.StatusReason
	text   string
	failed bool // an error rather than a refusal
}

// note is an audit annotation, or why there is none.
type note struct {
	key, value string
	err        string
}

// invocation is what expressions see beside the request.
type invocation struct {
	view      *match.View
	param     param
	namespace *corev1.Namespace
	authz     authorizer.UnconditionalAuthorizer
}

func (i *invocation) request() *admissionapi.AdmissionRequest {
	return celplugin.CreateAdmissionRequest(i.view.CEL.Attributes, metav1.GroupVersionResource(i.view.Kind.GroupVersionResource()), metav1.GroupVersionKind(i.view.ObjectKind))
}

// validate evaluates all expressions. Ran is false if the match conditions are not met.
func (v *validator) validate(ctx context.Context, in *invocation) (findings []finding, notes []note, ran bool) {
	failed := func(err error) ([]finding, []note, bool) {
		return []finding{{text: err.Error(), failed: true}}, nil, true
	}
	if v.err != nil {
		return failed(v.err)
	}
	if v.conditions != nil {
		switch r := v.conditions.Match(ctx, in.view.CEL, in.param, in.authz); {
		case r.Error != nil:
			return failed(r.Error)
		case !r.Matches:
			return nil, nil, false
		}
	}
	request, ns := in.request(), celplugin.CreateNamespaceObject(in.namespace)
	plain := celplugin.OptionalVariableBindings{VersionedParams: in.param}
	full := celplugin.OptionalVariableBindings{VersionedParams: in.param, Authorizer: in.authz}
	results, budget, err := v.results.ForInput(ctx, in.view.CEL, request, full, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return failed(err)
	}
	messages, _, messageErr := v.messages.ForInput(ctx, in.view.CEL, request, plain, ns, budget)
	for i := range results {
		var message *celplugin.EvaluationResult
		if i < len(messages) {
			message = &messages[i]
		}
		if f, ok := v.finding(i, &results[i], message, messageErr); ok {
			findings = append(findings, f)
		}
	}
	values, _, err := v.annotations.ForInput(ctx, in.view.CEL, request, full, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return failed(err)
	}
	for i := range values {
		if n, ok := annotation(&values[i]); ok {
			notes = append(notes, n)
		}
	}
	return findings, notes, true
}

// finding returns what is to be said about a validation; not ok: nothing.
func (v *validator) finding(i int, result, message *celplugin.EvaluationResult, messageErr error) (f finding, ok bool) {
	switch {
	case result.Error != nil:
		return finding{index: i, text: result.Error.Error(), failed: true}, true
	case errors.Is(messageErr, apiservercel.ErrInternal) || errors.Is(messageErr, apiservercel.ErrOutOfBudget):
		return finding{index: i, text: fmt.Sprintf("failed messageExpression: %s", messageErr), failed: true}, true
	case result.EvalResult == celtypes.True:
		return finding{}, false
	}
	spec := &v.validations[i]
	text := computed(message)
	if text == "" {
		text = strings.TrimSpace(spec.Message)
	}
	if text == "" {
		text = "failed expression: " + strings.TrimSpace(spec.Expression)
	}
	return finding{index: i, reason: ptr.Deref(spec.Reason, metav1.StatusReasonInvalid), text: text}, true
}

// computed is the text of a message expression, "" if that is not fit to be shown.
func computed(m *celplugin.EvaluationResult) string {
	if m == nil || m.Error != nil || m.EvalResult == nil {
		return ""
	}
	text, _ := m.EvalResult.Value().(string)
	text = strings.TrimSpace(text)
	if len(text) > celconfig.MaxEvaluatedMessageExpressionSizeBytes || strings.Contains(text, "\n") {
		return ""
	}
	return text
}

// annotation returns an audit annotation; not ok: there is to be none.
func annotation(r *celplugin.EvaluationResult) (n note, ok bool) {
	e, known := r.ExpressionAccessor.(*expression)
	if !known {
		return note{}, false
	}
	if r.Error != nil {
		return note{key: e.name, err: r.Error.Error()}, true
	}
	switch v := r.EvalResult.(type) {
	case celtypes.String:
		n = note{key: e.name, value: strings.TrimSpace(string(v))}
		return n, n.value != ""
	case celtypes.Null:
		return note{}, false
	}
	return note{key: e.name, err: fmt.Sprintf("valueExpression '%v' resulted in unsupported return type: %v. Return type must be either string or null.",
		e.text, r.EvalResult.Type())}, true
}
