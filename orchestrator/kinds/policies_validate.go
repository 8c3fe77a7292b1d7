package kinds

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	mutating "k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/client-go/util/jsonpath"
)

const (
	maxAuditAnnotations     = 20
	maxAuditExpressionBytes = 5 * 1024
)

// policyBase is what both kinds of policies have.
type policyBase struct {
	failure     *admissionv1.FailurePolicyType
	params      *admissionv1.ParamKind
	constraints *admissionv1.MatchResources
	conditions  []admissionv1.MatchCondition
	variables   []admissionv1.Variable
}

func baseOfValidating(s *admissionv1.ValidatingAdmissionPolicySpec) *policyBase {
	return &policyBase{s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions, s.Variables}
}

func baseOfMutating(s *admissionv1.MutatingAdmissionPolicySpec) *policyBase {
	return &policyBase{s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions, s.Variables}
}

// policy checks what both kinds of policies have. Conditions that are as before, if old is not nil, are not checked again.
func (p *problems) policy(at *field.Path, b, old *policyBase, x *expressions) {
	if b.failure == nil {
		p.required(at.Child("failurePolicy"), "")
	} else {
		oneOf(p, at.Child("failurePolicy"), *b.failure, admissionv1.Fail, admissionv1.Ignore)
	}
	if b.params != nil {
		p.paramKind(at.Child("paramKind"), b.params)
	}
	constraints := at.Child("matchConstraints")
	if b.constraints == nil {
		p.required(constraints, "")
	} else {
		p.matchResources(constraints, b.constraints)
		if len(b.constraints.ResourceRules) == 0 {
			p.required(constraints.Child("resourceRules"), "")
		}
	}
	if old == nil || !equality.Semantic.DeepEqual(b.params, old.params) || !equality.Semantic.DeepEqual(b.conditions, old.conditions) {
		p.matchConditions(at.Child("matchConditions"), b.conditions, x)
	}
}

// variables checks variables. Those that follow, and whatever else has expressions, may use those before.
func (p *problems) variables(at *field.Path, variables []admissionv1.Variable, x *expressions) {
	identifier := regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")
	reserved := strings.Fields("true false null in as break const continue else for function if import let loop package namespace return var void while")
	for i, v := range variables {
		switch name := at.Index(i).Child("name"); {
		case strings.TrimSpace(v.Name) == "":
			p.required(name, "name is not specified")
		case !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name):
			p.invalid(name, v.Name, "must be a valid CEL identifier")
		}
		if strings.TrimSpace(v.Expression) == "" {
			p.required(at.Index(i).Child("expression"), "expression is not specified")
		} else {
			x.variable(p, at.Index(i).Child("expression"), &variables[i])
		}
	}
}

func validateValidatingPolicy(compiler celCompiler, o, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	var p problems
	s, at := &o.Spec, field.NewPath("spec")
	var before *policyBase
	if old == nil {
		p.notStatic(o.Name)
	} else {
		before = baseOfValidating(&old.Spec)
	}
	x := compiler.expressions(s.ParamKind != nil, validatingExpressions(old))
	p.policy(at, baseOfValidating(s), before, x)
	if len(s.Variables) > 0 {
		x = x.composed(&p, at.Child("variables"), s.Variables)
	}
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		p.required(at.Child("validations"), "validations or auditAnnotations must contain at least one item")
		p.required(at.Child("auditAnnotations"), "validations or auditAnnotations must contain at least one item")
		return p.list
	}
	for i := range s.Validations {
		p.validation(at.Child("validations").Index(i), &s.Validations[i], x)
	}
	p.auditAnnotations(at.Child("auditAnnotations"), o, x)
	return p.list
}

func (p *problems) validation(at *field.Path, v *admissionv1.Validation, x *expressions) {
	if strings.TrimSpace(v.Expression) == "" {
		p.required(at.Child("expression"), "expression is not specified")
	} else {
		x.condition(p, at.Child("expression"), v.Expression)
	}
	switch {
	case v.MessageExpression == "":
	case strings.TrimSpace(v.MessageExpression) == "":
		p.invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified")
	default:
		x.message(p, at.Child("messageExpression"), v.MessageExpression)
	}
	switch message := strings.TrimSpace(v.Message); {
	case v.Message != "" && message == "":
		p.invalid(at.Child("message"), v.Message, "must be non-empty if specified")
	case strings.ContainsAny(message, "\n\r"):
		p.invalid(at.Child("message"), v.Message, "must not contain line breaks")
	}
	if v.Reason != nil {
		oneOf(p, at.Child("reason"), *v.Reason, metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)
	}
}

func (p *problems) auditAnnotations(at *field.Path, o *admissionv1.ValidatingAdmissionPolicy, x *expressions) {
	l := o.Spec.AuditAnnotations
	if len(l) > maxAuditAnnotations {
		p.invalid(at, l, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations))
	}
	seen := map[string]bool{}
	for i, a := range l {
		key, value := at.Index(i).Child("key"), at.Index(i).Child("valueExpression")
		if o.Name == "" {
			p.invalid(key, a.Key, "requires metadata.name be non-empty")
		} else {
			p.qualifiedName(key, o.Name+"/"+a.Key)
		}
		e := strings.TrimSpace(a.ValueExpression)
		switch n := len(e); {
		case n == 0:
			p.required(value, "valueExpression is not specified")
		case n > maxAuditExpressionBytes:
			p.required(value, fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpressionBytes))
		default:
			x.annotation(p, value, e)
		}
		unique(p, seen, key, a.Key)
	}
}

func validateMutatingPolicy(compiler celCompiler, o, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	var p problems
	s, at := &o.Spec, field.NewPath("spec")
	var before *policyBase
	if old == nil {
		p.notStatic(o.Name)
	} else {
		before = baseOfMutating(&old.Spec)
	}
	x := compiler.expressions(s.ParamKind != nil, mutatingExpressions(old))
	p.policy(at, baseOfMutating(s), before, x)
	p.mutable(at.Child("matchConstraints"), s.MatchConstraints)
	x = x.composed(&p, at.Child("variables"), s.Variables)
	if len(s.Mutations) == 0 {
		p.required(at.Child("mutations"), "mutations must contain at least one item")
	}
	for i := range s.Mutations {
		p.mutation(at.Child("mutations").Index(i), &s.Mutations[i], x)
	}
	mustBeOneOf(&p, at.Child("reinvocationPolicy"), s.ReinvocationPolicy,
		admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
	return p.list
}

// mutable allows only operations that have an object to be changed.
func (p *problems) mutable(at *field.Path, m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	for i := range m.ResourceRules {
		for _, op := range m.ResourceRules[i].Operations {
			oneOf(p, at.Child("resourceRules", "operations"), op,
				admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update)
		}
	}
}

// mutation checks that a mutation has the expression that its type says, and no other.
func (p *problems) mutation(at *field.Path, m *admissionv1.Mutation, x *expressions) {
	apply, patch := at.Child("applyConfiguration"), at.Child("jsonPatch")
	switch m.PatchType {
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			p.required(patch, "must be specified when patchType is JSONPatch")
		} else if e := strings.TrimSpace(m.JSONPatch.Expression); p.have(patch.Child("expression"), e) {
			x.patch(p, patch.Child("expression"), &mutating.JSONPatchCondition{Expression: e})
		}
		if m.ApplyConfiguration != nil {
			p.invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch")
		}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			p.required(apply, "must be specified when patchType is ApplyConfiguration")
		} else if e := strings.TrimSpace(m.ApplyConfiguration.Expression); p.have(apply.Child("expression"), e) {
			x.patch(p, apply.Child("expression"), &mutating.ApplyConfigurationCondition{Expression: e})
		}
		if m.JSONPatch != nil {
			p.invalid(patch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration")
		}
	default:
		mustBeOneOf(p, at.Child("patchType"), m.PatchType, admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	}
}

func (p *problems) paramKind(at *field.Path, k *admissionv1.ParamKind) {
	if version := at.Child("apiVersion"); p.have(version, k.APIVersion) {
		p.apiVersion(version, k.APIVersion)
	}
	if p.have(at.Child("kind"), k.Kind) {
		if errs := utilvalidation.IsDNS1035Label(strings.ToLower(k.Kind)); len(errs) > 0 {
			p.invalid(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(errs, ","))
		}
	}
}

func (p *problems) apiVersion(at *field.Path, text string) {
	group, version, ok := strings.Cut(text, "/")
	switch {
	case strings.Count(text, "/") > 1:
		p.invalid(at, text, "unexpected GroupVersion string: "+text)
		return
	case !ok:
		group, version = "", text
	}
	if errs := utilvalidation.IsDNS1123Subdomain(group); group != "" && len(errs) > 0 {
		p.invalid(at, group, strings.Join(errs, ","))
	}
	if version == "" {
		p.invalid(at, text, "version must be specified")
	} else if errs := utilvalidation.IsDNS1035Label(version); len(errs) > 0 {
		p.invalid(at, version, strings.Join(errs, ","))
	}
}

func (p *problems) matchResources(at *field.Path, m *admissionv1.MatchResources) {
	if m.MatchPolicy == nil {
		p.required(at.Child("matchPolicy"), "")
	} else {
		oneOf(p, at.Child("matchPolicy"), *m.MatchPolicy, admissionv1.Equivalent, admissionv1.Exact)
	}
	p.neededSelector(at.Child("namespaceSelector"), m.NamespaceSelector)
	p.neededSelector(at.Child("objectSelector"), m.ObjectSelector)
	for i := range m.ResourceRules {
		p.namedRule(at.Child("resourceRules").Index(i), &m.ResourceRules[i])
	}
	for i := range m.ExcludeResourceRules {
		p.namedRule(at.Child("excludeResourceRules").Index(i), &m.ExcludeResourceRules[i])
	}
}

func (p *problems) neededSelector(at *field.Path, s *metav1.LabelSelector) {
	if s == nil {
		p.required(at, "")
		return
	}
	p.add(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
}

func (p *problems) namedRule(at *field.Path, r *admissionv1.NamedRuleWithOperations) {
	seen := map[string]bool{}
	for i, name := range r.ResourceNames {
		p.each(at.Child("resourceNames").Index(i), name, content.IsPathSegmentName(name))
		unique(p, seen, at.Child("resourceNames").Index(i), name)
	}
	p.admissionRule(at, &r.RuleWithOperations)
}

func validateValidatingPolicyStatus(o, _ *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	var p problems
	at := field.NewPath("status")
	if c := o.Status.TypeChecking; c != nil {
		for i, w := range c.ExpressionWarnings {
			at := at.Child("typeChecking", "expressionWarnings").Index(i)
			p.have(at.Child("warning"), w.Warning)
			ref := strings.TrimSpace(w.FieldRef)
			if !p.have(at.Child("fieldRef"), ref) {
				continue
			}
			if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				p.invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err))
			}
		}
	}
	p.add(metav1validation.ValidateConditions(o.Status.Conditions, at.Child("conditions"))...)
	return p.list
}

// policyBinding checks what both kinds of bindings have.
func (p *problems) policyBinding(name string, ref *admissionv1.ParamRef, m *admissionv1.MatchResources) {
	at := field.NewPath("spec")
	if p.have(at.Child("policyName"), name) {
		p.name(at.Child("policyName"), name)
	}
	if ref != nil {
		p.paramRef(at.Child("paramRef"), ref)
	}
	if m != nil {
		p.matchResources(at.Child("matchResources"), m)
	}
}

func (p *problems) paramRef(at *field.Path, r *admissionv1.ParamRef) {
	const either = "name and selector are mutually exclusive"
	if r.Name != "" {
		p.each(at.Child("name"), r.Name, content.IsPathSegmentName(r.Name))
		if r.Selector != nil {
			p.forbidden(at.Child("name"), either)
		}
	}
	if r.Selector != nil {
		p.add(metav1validation.ValidateLabelSelector(r.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
		if r.Name != "" {
			p.forbidden(at.Child("selector"), either)
		}
	}
	if r.Name == "" && r.Selector == nil {
		p.required(at, "one of name or selector must be specified")
	}
	if a := r.ParameterNotFoundAction; a == nil {
		p.required(at.Child("parameterNotFoundAction"), "")
	} else {
		mustBeOneOf(p, at.Child("parameterNotFoundAction"), *a, admissionv1.DenyAction, admissionv1.AllowAction)
	}
}

func validateValidatingPolicyBinding(o, old *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	var p problems
	if old == nil {
		p.notStatic(o.Name)
	}
	p.policyBinding(o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.MatchResources)
	at := field.NewPath("spec", "validationActions")
	actions := o.Spec.ValidationActions
	seen := map[admissionv1.ValidationAction]bool{}
	for i, a := range actions {
		oneOf(&p, at.Index(i), a, admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)
		unique(&p, seen, at.Index(i), a)
	}
	if seen[admissionv1.Deny] && seen[admissionv1.Warn] {
		p.invalid(at, actions, "must not contain both Deny and Warn "+
			"(repeating the same validation failure information in the API response and headers serves no purpose)")
	}
	if len(actions) == 0 {
		p.required(at, "")
	}
	return p.list
}

func validateMutatingPolicyBinding(o, old *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	var p problems
	if old == nil {
		p.notStatic(o.Name)
	}
	p.policyBinding(o.Spec.PolicyName, o.Spec.ParamRef, o.Spec.MatchResources)
	p.mutable(field.NewPath("spec", "matchResources"), o.Spec.MatchResources)
	return p.list
}
