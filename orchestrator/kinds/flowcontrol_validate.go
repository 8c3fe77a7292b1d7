package kinds

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
	"k8s.io/utils/ptr"
)

const (
	maxQueues = 10_000_000
	wildcard  = "*"
)

func validateFlowSchema(o *flowcontrolv1.FlowSchema) field.ErrorList {
	var p problems
	s, at := &o.Spec, field.NewPath("spec")
	precedence := at.Child("matchingPrecedence")
	switch n := s.MatchingPrecedence; {
	case n <= 0:
		p.invalid(precedence, n, "must be a positive value")
	case n > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		p.invalid(precedence, n, fmt.Sprintf("must not be greater than %d", flowcontrolv1.FlowSchemaMaxMatchingPrecedence))
	case n == 1 && o.Name != flowcontrolv1.FlowSchemaNameExempt:
		p.invalid(precedence, n, "only the schema named 'exempt' may have matchingPrecedence 1")
	}
	if m := s.DistinguisherMethod; m != nil {
		methods := []flowcontrolv1.FlowDistinguisherMethodType{
			flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType,
		}
		if !slices.Contains(methods, m.Type) {
			p.add(field.NotSupported(at.Child("distinguisherMethod", "type"), m, methods))
		}
	}
	level := at.Child("priorityLevelConfiguration", "name")
	if name := s.PriorityLevelConfiguration.Name; name == "" {
		p.required(level, "must reference a priority level")
	} else {
		p.name(level, name)
	}
	for i := range s.Rules {
		p.flowRule(at.Child("rules").Index(i), &s.Rules[i])
	}
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == o.Name && !equality.Semantic.DeepEqual(o.Spec, fixed.Spec) {
			p.invalid(at, o.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", o.Name))
		}
	}
	p.list = append(p.list, validateFlowSchemaStatus(o, nil)...)
	return p.list
}

func (p *problems) flowRule(at *field.Path, r *flowcontrolv1.PolicyRulesWithSubjects) {
	for i := range r.Subjects {
		p.flowSubject(at.Child("subjects").Index(i), &r.Subjects[i])
	}
	if len(r.Subjects) == 0 {
		p.required(at.Child("subjects"), "subjects must contain at least one value")
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		p.required(at, "at least one of resourceRules and nonResourceRules has to be non-empty")
	}
	for i := range r.ResourceRules {
		p.flowResources(at.Child("resourceRules").Index(i), &r.ResourceRules[i])
	}
	for i := range r.NonResourceRules {
		p.flowPaths(at.Child("nonResourceRules").Index(i), &r.NonResourceRules[i])
	}
}

// flowSubject checks a subject, which has the part that its kind names, and no other.
func (p *problems) flowSubject(at *field.Path, s *flowcontrolv1.Subject) {
	switch s.Kind {
	case flowcontrolv1.SubjectKindServiceAccount:
		p.flowAccount(at.Child("serviceAccount"), s.ServiceAccount)
	case flowcontrolv1.SubjectKindUser:
		if s.User == nil {
			p.required(at.Child("user"), "user is required when subject kind is 'User'")
		} else {
			p.have(at.Child("user", "name"), s.User.Name)
		}
	case flowcontrolv1.SubjectKindGroup:
		if s.Group == nil {
			p.required(at.Child("group"), "group is required when subject kind is 'Group'")
		} else {
			p.have(at.Child("group", "name"), s.Group.Name)
		}
	default:
		oneOf(p, at.Child("kind"), s.Kind, flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
		return
	}
	if s.ServiceAccount != nil && s.Kind != flowcontrolv1.SubjectKindServiceAccount {
		p.forbidden(at.Child("serviceAccount"), "serviceAccount is forbidden when subject kind is not 'ServiceAccount'")
	}
	if s.User != nil && s.Kind != flowcontrolv1.SubjectKindUser {
		p.forbidden(at.Child("user"), "user is forbidden when subject kind is not 'User'")
	}
	if s.Group != nil && s.Kind != flowcontrolv1.SubjectKindGroup {
		p.forbidden(at.Child("group"), "group is forbidden when subject kind is not 'Group'")
	}
}

func (p *problems) flowAccount(at *field.Path, a *flowcontrolv1.ServiceAccountSubject) {
	if a == nil {
		p.required(at, "serviceAccount is required when subject kind is 'ServiceAccount'")
		return
	}
	if p.have(at.Child("name"), a.Name) && a.Name != flowcontrolv1.NameAll {
		p.each(at.Child("name"), a.Name, validation.ValidateServiceAccountName(a.Name, false))
	}
	if a.Namespace == "" {
		p.required(at.Child("namespace"), "must specify namespace for service account")
	} else {
		p.each(at.Child("namespace"), a.Namespace, validation.ValidateNamespaceName(a.Namespace, false))
	}
}

// someOrAll requires values, of which "*" must be the only one. It returns whether they are to be looked at one by one.
func (p *problems) someOrAll(at *field.Path, values []string, missing, others string) bool {
	switch {
	case len(values) == 0:
		p.required(at, missing)
	case slices.Contains(values, wildcard):
		if len(values) > 1 {
			p.invalid(at, values, "if '*' is present, must not specify other "+others)
		}
	default:
		return true
	}
	return false
}

func (p *problems) flowVerbs(at *field.Path, verbs []string) {
	known := []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
	if p.someOrAll(at, verbs, "verbs must contain at least one value", "verbs") &&
		slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(known, v) }) {
		p.add(field.NotSupported(at, verbs, known))
	}
}

func (p *problems) flowResources(at *field.Path, r *flowcontrolv1.ResourcePolicyRule) {
	p.flowVerbs(at.Child("verbs"), r.Verbs)
	p.someOrAll(at.Child("apiGroups"), r.APIGroups, "resource rules must supply at least one api group", "api groups")
	p.someOrAll(at.Child("resources"), r.Resources, "resource rules must supply at least one resource", "resources")
	namespaces := at.Child("namespaces")
	if len(r.Namespaces) == 0 && r.ClusterScope {
		return
	}
	if p.someOrAll(namespaces, r.Namespaces, "resource rules that are not cluster scoped must supply at least one namespace", "namespaces") {
		for i, n := range r.Namespaces {
			for _, m := range validation.ValidateNamespaceName(n, false) {
				p.invalid(namespaces.Index(i), n, "each member of this list must be '*' or a DNS-1123 label; "+m)
			}
		}
	}
}

func (p *problems) flowPaths(at *field.Path, r *flowcontrolv1.NonResourcePolicyRule) {
	p.flowVerbs(at.Child("verbs"), r.Verbs)
	urls := at.Child("nonResourceURLs")
	if p.someOrAll(urls, r.NonResourceURLs, "nonResourceURLs must contain at least one value", "non-resource URLs") {
		for i, u := range r.NonResourceURLs {
			if m := badURLPath(u); m != "" {
				p.invalid(urls.Index(i), u, m)
			}
		}
	}
}

// badURLPath says what is wrong with a path of a URL, which may end in "/*".
func badURLPath(path string) string {
	switch n := strings.Count(path, wildcard); {
	case path == "":
		return "must not be empty"
	case path == "/":
		return ""
	case !strings.HasPrefix(path, "/"):
		return "must start with slash"
	case strings.Contains(path, " "):
		return "must not contain white-space"
	case strings.Contains(path, "//"):
		return "must not contain double slash"
	case n > 1 || n == 1 && !strings.HasSuffix(path, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}

func validateFlowSchemaStatus(o, _ *flowcontrolv1.FlowSchema) field.ErrorList {
	var p problems
	seen := map[flowcontrolv1.FlowSchemaConditionType]bool{}
	for i, c := range o.Status.Conditions {
		at := field.NewPath("status", "conditions").Index(i).Child("type")
		unique(&p, seen, at, c.Type)
		p.have(at, string(c.Type))
	}
	return p.list
}

func validatePriorityLevel(o *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	var p problems
	s, at := &o.Spec, field.NewPath("spec")
	exempt := s.Type == flowcontrolv1.PriorityLevelEnablementExempt
	if exempt != (o.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) {
		p.invalid(at.Child("type"), string(s.Type), "must be 'Exempt' if and only if `name` is 'exempt'")
	}
	mustBeOneOf(&p, at.Child("type"), s.Type, flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
	switch {
	case s.Exempt == nil:
	case !exempt:
		p.forbidden(at.Child("exempt"), "")
	default:
		p.shares(at.Child("exempt"), s.Exempt.NominalConcurrencyShares, s.Exempt.LendablePercent)
	}
	limited := s.Type == flowcontrolv1.PriorityLevelEnablementLimited
	switch {
	case s.Limited == nil && limited:
		p.required(at.Child("limited"), "")
	case s.Limited == nil:
	case !limited:
		p.forbidden(at.Child("limited"), "")
	default:
		p.limited(at.Child("limited"), s.Limited)
	}
	p.mandatoryLevel(at, o)
	p.list = append(p.list, validatePriorityLevelStatus(o, nil)...)
	return p.list
}

func (p *problems) shares(at *field.Path, shares, percent *int32) {
	if shares != nil && *shares < 0 {
		p.invalid(at.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer")
	}
	if percent != nil && (*percent < 0 || *percent > 100) {
		p.invalid(at.Child("lendablePercent"), *percent, "must be between 0 and 100, inclusive")
	}
}

func (p *problems) limited(at *field.Path, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
	p.shares(at, l.NominalConcurrencyShares, l.LendablePercent)
	if n := l.BorrowingLimitPercent; n != nil && *n < 0 {
		p.invalid(at.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer")
	}
	at = at.Child("limitResponse")
	r := &l.LimitResponse
	mustBeOneOf(p, at.Child("type"), r.Type, flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)
	queue := r.Type == flowcontrolv1.LimitResponseTypeQueue
	switch at := at.Child("queuing"); {
	case r.Queuing == nil && queue:
		p.required(at, "")
	case r.Queuing == nil:
	case !queue:
		p.forbidden(at, "")
	default:
		p.queuing(at, r.Queuing)
	}
}

func (p *problems) queuing(at *field.Path, q *flowcontrolv1.QueuingConfiguration) {
	if q.QueueLengthLimit <= 0 {
		p.invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive")
	}
	switch {
	case q.Queues <= 0:
		p.invalid(at.Child("queues"), q.Queues, "must be positive")
	case q.Queues > maxQueues:
		p.invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues))
	}
	at = at.Child("handSize")
	switch {
	case q.HandSize <= 0:
		p.invalid(at, q.HandSize, "must be positive")
	case q.HandSize > q.Queues:
		p.invalid(at, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues))
	case shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)) > shufflesharding.MaxHashBits:
		p.invalid(at, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d",
			q.Queues, q.HandSize, shufflesharding.MaxHashBits))
	}
}

// mandatoryLevel keeps the levels that every cluster has as they are.
func (p *problems) mandatoryLevel(at *field.Path, o *flowcontrolv1.PriorityLevelConfiguration) {
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != o.Name {
			continue
		}
		is, except := ptr.To(o.Spec), ""
		if o.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			is.Exempt, except = fixed.Spec.Exempt, " except the 'spec.exempt' field"
		}
		if !equality.Semantic.DeepEqual(*is, fixed.Spec) {
			p.invalid(at, o.Spec, fmt.Sprintf("spec of '%s'%s must equal the fixed value", o.Name, except))
		}
	}
}

func validatePriorityLevelStatus(o, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	var p problems
	seen := map[flowcontrolv1.PriorityLevelConfigurationConditionType]bool{}
	for i, c := range o.Status.Conditions {
		at := field.NewPath("status", "conditions").Index(i).Child("type")
		unique(&p, seen, at, c.Type)
		p.have(at, string(c.Type))
	}
	return p.list
}
