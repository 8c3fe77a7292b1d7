package kinds

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/utils/ptr"
)

const (
	maxWebhookTimeout  = 30 // seconds
	maxMatchConditions = 64
	// staticSuffix ends the names of extensions that are not in the API, but in files.
	staticSuffix = ".static.k8s.io"
)

// hook is a webhook of either kind.
type hook struct {
	name              string
	client            *admissionv1.WebhookClientConfig
	rules             []admissionv1.RuleWithOperations
	failure           *admissionv1.FailurePolicyType
	match             *admissionv1.MatchPolicyType
	namespaces, other *metav1.LabelSelector
	sideEffects       *admissionv1.SideEffectClass
	timeout           *int32
	versions          []string
	conditions        []admissionv1.MatchCondition
	reinvocation      *admissionv1.ReinvocationPolicyType
}

func validatingHooks(o *admissionv1.ValidatingWebhookConfiguration) []hook {
	l := make([]hook, len(o.Webhooks))
	for i := range o.Webhooks {
		h := &o.Webhooks[i]
		l[i] = hook{
			name: h.Name, client: &h.ClientConfig, rules: h.Rules, failure: h.FailurePolicy, match: h.MatchPolicy, namespaces: h.NamespaceSelector,
			other: h.ObjectSelector, sideEffects: h.SideEffects, timeout: h.TimeoutSeconds, versions: h.AdmissionReviewVersions,
			conditions: h.MatchConditions,
		}
	}
	return l
}

func mutatingHooks(o *admissionv1.MutatingWebhookConfiguration) []hook {
	l := make([]hook, len(o.Webhooks))
	for i := range o.Webhooks {
		h := &o.Webhooks[i]
		l[i] = hook{
			name: h.Name, client: &h.ClientConfig, rules: h.Rules, failure: h.FailurePolicy, match: h.MatchPolicy, namespaces: h.NamespaceSelector,
			other: h.ObjectSelector, sideEffects: h.SideEffects, timeout: h.TimeoutSeconds, versions: h.AdmissionReviewVersions,
			conditions: h.MatchConditions, reinvocation: h.ReinvocationPolicy,
		}
	}
	return l
}

// hooksCheck is what is tolerated in webhooks because it was there before.
type hooksCheck struct {
	problems
	expressions                                                       *expressions
	anySideEffects, anyVersions, sameNames, badValues, sameConditions bool
}

// validateHooks checks webhooks; old are those before, nil at a creation.
func validateHooks(compiler celCompiler, hooks, old []hook) field.ErrorList {
	c := hooksCheck{expressions: compiler.expressions(false, hookExpressions(old)), sameConditions: len(old) == len(hooks) && len(old) > 0}
	names := map[string]bool{}
	for i := range old {
		h := &old[i]
		c.anySideEffects = c.anySideEffects || h.sideEffects == nil || !slices.Contains(harmless(), *h.sideEffects)
		c.anyVersions = c.anyVersions || len(h.versions) > 0 && !knowsReview(h.versions)
		c.sameNames = c.sameNames || names[h.name]
		names[h.name] = true
		c.badValues = c.badValues || metav1validation.LabelSelectorHasInvalidLabelValue(h.namespaces) ||
			metav1validation.LabelSelectorHasInvalidLabelValue(h.other)
		c.sameConditions = c.sameConditions && equality.Semantic.DeepEqual(h.conditions, hooks[i].conditions)
	}
	seen := map[string]bool{}
	for i := range hooks {
		at := field.NewPath("webhooks").Index(i)
		c.hook(at, &hooks[i])
		c.reviewVersions(at.Child("admissionReviewVersions"), hooks[i].versions)
		if !c.sameNames && hooks[i].name != "" {
			unique(&c.problems, seen, at.Child("name"), hooks[i].name)
		}
	}
	return c.list
}

func harmless() []admissionv1.SideEffectClass {
	return []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun}
}

// reviewVersions are those of the reviews that are sent to webhooks.
func reviewVersions() []string { return []string{"v1", "v1beta1"} }

func knowsReview(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(reviewVersions(), v) })
}

func (c *hooksCheck) hook(at *field.Path, h *hook) {
	c.add(utilvalidation.IsFullyQualifiedName(at.Child("name"), h.name)...)
	for i := range h.rules {
		c.admissionRule(at.Child("rules").Index(i), &h.rules[i])
	}
	if h.failure != nil {
		oneOf(&c.problems, at.Child("failurePolicy"), *h.failure, admissionv1.Fail, admissionv1.Ignore)
	}
	if h.match != nil {
		oneOf(&c.problems, at.Child("matchPolicy"), *h.match, admissionv1.Equivalent, admissionv1.Exact)
	}
	c.sideEffects(at.Child("sideEffects"), h.sideEffects)
	if t := h.timeout; t != nil && (*t < 1 || *t > maxWebhookTimeout) {
		c.invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds")
	}
	options := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: c.badValues}
	c.add(metav1validation.ValidateLabelSelector(h.namespaces, options, at.Child("namespaceSelector"))...)
	c.add(metav1validation.ValidateLabelSelector(h.other, options, at.Child("objectSelector"))...)
	if h.reinvocation != nil {
		oneOf(&c.problems, at.Child("reinvocationPolicy"), *h.reinvocation, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
	}
	c.hookClient(at.Child("clientConfig"), h.client)
	if !c.sameConditions {
		c.matchConditions(at.Child("matchConditions"), h.conditions, c.expressions)
	}
}

// hookClient checks where a webhook is. Kubernetes takes the name of a service for its namespace when it says what is missing.
func (c *hooksCheck) hookClient(at *field.Path, cc *admissionv1.WebhookClientConfig) {
	switch s := cc.Service; {
	case (cc.URL == nil) == (s == nil):
		c.required(at, "exactly one of url or service is required")
	case cc.URL != nil:
		c.add(webhook.ValidateWebhookURL(at.Child("url"), *cc.URL, true)...)
	default:
		c.add(webhook.ValidateWebhookService(at.Child("service"), s.Name, s.Namespace, s.Path, ptr.Deref(s.Port, 0))...)
	}
}

func (c *hooksCheck) sideEffects(at *field.Path, class *admissionv1.SideEffectClass) {
	allowed := harmless()
	if c.anySideEffects {
		allowed = append(allowed, admissionv1.SideEffectClassSome, admissionv1.SideEffectClassUnknown)
	}
	if class != nil {
		oneOf(&c.problems, at, *class, allowed...)
		return
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	c.required(at, "must specify one of "+strings.Join(names, ", "))
}

func (c *hooksCheck) reviewVersions(at *field.Path, versions []string) {
	known := strings.Join(reviewVersions(), ", ")
	if len(versions) == 0 {
		c.required(at, "must specify one of "+known)
		return
	}
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			c.invalid(at.Index(i), v, "duplicate version")
			continue
		}
		c.each(at.Index(i), v, utilvalidation.IsDNS1035Label(v))
	}
	if !c.anyVersions && !knowsReview(versions) {
		c.invalid(at, versions, "must include at least one of "+known)
	}
}

// admissionRule checks which requests a webhook or a policy is for.
func (p *problems) admissionRule(at *field.Path, r *admissionv1.RuleWithOperations) {
	operations := at.Child("operations")
	if len(r.Operations) == 0 {
		p.required(operations, "")
	}
	if len(r.Operations) > 1 && slices.Contains(r.Operations, admissionv1.OperationAll) {
		p.invalid(operations, r.Operations, "if '*' is present, must not specify other operations")
	}
	for i, o := range r.Operations {
		oneOf(p, operations.Index(i), o, admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update)
	}
	groups, versions := at.Child("apiGroups"), at.Child("apiVersions")
	if len(r.APIGroups) == 0 {
		p.required(groups, "")
	}
	if len(r.APIGroups) > 1 && slices.Contains(r.APIGroups, wildcard) {
		p.invalid(groups, r.APIGroups, "if '*' is present, must not specify other API groups")
	}
	if len(r.APIVersions) == 0 {
		p.required(versions, "")
	}
	if len(r.APIVersions) > 1 && slices.Contains(r.APIVersions, wildcard) {
		p.invalid(versions, r.APIVersions, "if '*' is present, must not specify other API versions")
	}
	for i, v := range r.APIVersions {
		p.have(versions.Index(i), v)
	}
	p.ruleResources(at.Child("resources"), r.Resources)
	if r.Scope != nil {
		oneOf(p, at.Child("scope"), *r.Scope, admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)
	}
}

// ruleResources checks resources, which may have subresources; either can be "*", and then stands alone.
func (p *problems) ruleResources(at *field.Path, resources []string) {
	if len(resources) == 0 {
		p.required(at, "")
	}
	allSubs, allResources := map[string]bool{}, map[string]bool{}
	plain := false
	for i, name := range resources {
		if !p.have(at.Index(i), name) {
			continue
		}
		resource, sub, ok := strings.Cut(name, "/")
		if !ok {
			plain = name != wildcard
			continue
		}
		if allSubs[resource] {
			p.invalid(at.Index(i), name, "if '"+resource+"/*' is present, must not specify "+name)
		}
		if allResources[sub] {
			p.invalid(at.Index(i), name, "if '*/"+sub+"' is present, must not specify "+name)
		}
		allSubs[resource] = allSubs[resource] || sub == wildcard
		allResources[sub] = allResources[sub] || resource == wildcard
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		p.invalid(at, resources, "if '*/*' is present, must not specify other resources")
	}
	if plain && slices.Contains(resources, wildcard) {
		p.invalid(at, resources, "if '*' is present, must not specify other resources without subresources")
	}
}

// matchConditions checks the conditions of a webhook or a policy.
func (p *problems) matchConditions(at *field.Path, conditions []admissionv1.MatchCondition, x *expressions) {
	if len(conditions) > maxMatchConditions {
		p.add(field.TooMany(at, len(conditions), maxMatchConditions))
	}
	seen := map[string]bool{}
	for i, c := range conditions {
		if e := strings.TrimSpace(c.Expression); p.have(at.Index(i).Child("expression"), e) {
			x.condition(p, at.Index(i).Child("expression"), e)
		}
		if p.have(at.Index(i).Child("name"), c.Name) {
			p.qualifiedName(at.Index(i).Child("name"), c.Name)
			unique(p, seen, at.Index(i).Child("name"), c.Name)
		}
	}
}

// notStatic refuses a name that is for extensions in files.
func (p *problems) notStatic(name string) {
	if strings.HasSuffix(name, staticSuffix) {
		p.invalid(field.NewPath("metadata", "name"), name, reservedName())
	}
}

func reservedName() string {
	return `names ending with "` + staticSuffix + `" are reserved for static manifest-based configurations and cannot be managed via the API`
}

// staticWarning warns of such a name of an object that was there already.
func staticWarning(name string, created bool) []string {
	if created || !strings.HasSuffix(name, staticSuffix) {
		return nil
	}
	return []string{"metadata.name: " + reservedName()}
}

// hookWarnings tells of rules about requests that are never sent to webhooks.
func hookWarnings(name string, created bool, hooks []hook) []string {
	l := staticWarning(name, created)
	for i := range hooks {
		for j := range hooks[i].rules {
			at := field.NewPath("webhooks").Index(i).Child("rules").Index(j)
			for _, r := range neverAdmitted(&hooks[i].rules[j].Rule) {
				l = append(l, at.String()+": "+r+" is excluded from admission webhooks; this rule will have no effect")
			}
		}
	}
	return l
}

// neverAdmitted returns the reviews that a rule names, which a webhook could make useless.
func neverAdmitted(r *admissionv1.Rule) []string {
	if slices.Contains(r.APIGroups, wildcard) || slices.Contains(r.Resources, wildcard) {
		return nil
	}
	reviews := map[string][]string{
		"authentication.k8s.io": {"selfsubjectreviews", "tokenreviews"},
		"authorization.k8s.io":  {"localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "subjectaccessreviews"},
	}
	var l []string
	for _, g := range r.APIGroups {
		for _, name := range r.Resources {
			if full := name + "." + g; slices.Contains(reviews[g], name) && !slices.Contains(l, full) {
				l = append(l, full)
			}
		}
	}
	return l
}
