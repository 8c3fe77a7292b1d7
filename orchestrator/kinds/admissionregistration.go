package kinds

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	defaultWebhookTimeout = 10 // seconds
	defaultWebhookPort    = 443
	unsetCell             = "<unset>"
)

// admissionKinds are those of admissionregistration.k8s.io.
func admissionKinds() []*Kind {
	c := newCELCompiler()
	return []*Kind{
		mutatingPolicyBindingKind(), mutatingPolicyKind(c), mutatingWebhooksKind(c),
		validatingPolicyBindingKind(), validatingPolicyKind(c), validatingWebhooksKind(c),
	}
}

// extension is what the kinds of the group have in common.
func extension(kind, resource, singular string, columns ...metav1.TableColumnDefinition) Kind {
	return Kind{
		GroupVersionKind: admissionv1.SchemeGroupVersion.WithKind(kind), Resource: resource, Singular: singular,
		Categories: []string{"api-extensions"}, Place: resource,
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true}, Columns: columns,
	}
}

func webhooksColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn, countColumn("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"), ageColumn,
	}
}

func validatingWebhooksKind(c celCompiler) *Kind {
	k := extension("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "validatingwebhookconfiguration", webhooksColumns()...)
	k.New = func() Object { return &admissionv1.ValidatingWebhookConfiguration{} }
	k.NewList = func() runtime.Object { return &admissionv1.ValidatingWebhookConfigurationList{} }
	return with(k, Rules[*admissionv1.ValidatingWebhookConfiguration]{
		Ratchets: true,
		Validate: func(o *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
			p := problems{list: validateHooks(c, validatingHooks(o), nil)}
			p.notStatic(o.Name)
			return p.list
		},
		ValidateUpdate: func(o, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
			return validateHooks(c, validatingHooks(o), validatingHooks(old))
		},
		Warnings: func(o, old *admissionv1.ValidatingWebhookConfiguration) []string {
			return hookWarnings(o.Name, old == nil, validatingHooks(o))
		},
		Default: func(o *admissionv1.ValidatingWebhookConfiguration) {
			for i := range o.Webhooks {
				h := &o.Webhooks[i]
				fill(&h.FailurePolicy, admissionv1.Fail)
				fill(&h.TimeoutSeconds, defaultWebhookTimeout)
				defaultMatching(&h.MatchPolicy, &h.NamespaceSelector, &h.ObjectSelector)
				defaultHook(&h.ClientConfig, h.Rules)
			}
		},
		Spec: func(o *admissionv1.ValidatingWebhookConfiguration) any { return &o.Webhooks },
		Row: func(o *admissionv1.ValidatingWebhookConfiguration, now time.Time) []any {
			return []any{o.Name, int64(len(o.Webhooks)), age(o, now)}
		},
	})
}

func mutatingWebhooksKind(c celCompiler) *Kind {
	k := extension("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", webhooksColumns()...)
	k.New = func() Object { return &admissionv1.MutatingWebhookConfiguration{} }
	k.NewList = func() runtime.Object { return &admissionv1.MutatingWebhookConfigurationList{} }
	return with(k, Rules[*admissionv1.MutatingWebhookConfiguration]{
		Ratchets: true,
		Validate: func(o *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			p := problems{list: validateHooks(c, mutatingHooks(o), nil)}
			p.notStatic(o.Name)
			return p.list
		},
		ValidateUpdate: func(o, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			return validateHooks(c, mutatingHooks(o), mutatingHooks(old))
		},
		Warnings: func(o, old *admissionv1.MutatingWebhookConfiguration) []string {
			return hookWarnings(o.Name, old == nil, mutatingHooks(o))
		},
		Default: func(o *admissionv1.MutatingWebhookConfiguration) {
			for i := range o.Webhooks {
				h := &o.Webhooks[i]
				fill(&h.FailurePolicy, admissionv1.Fail)
				fill(&h.TimeoutSeconds, defaultWebhookTimeout)
				fill(&h.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
				defaultMatching(&h.MatchPolicy, &h.NamespaceSelector, &h.ObjectSelector)
				defaultHook(&h.ClientConfig, h.Rules)
			}
		},
		Spec: func(o *admissionv1.MutatingWebhookConfiguration) any { return &o.Webhooks },
		Row: func(o *admissionv1.MutatingWebhookConfiguration, now time.Time) []any {
			return []any{o.Name, int64(len(o.Webhooks)), age(o, now)}
		},
	})
}

// defaultMatching fills in what requests a webhook or a policy is for.
func defaultMatching(policy **admissionv1.MatchPolicyType, namespaces, objects **metav1.LabelSelector) {
	fill(policy, admissionv1.Equivalent)
	fill(namespaces, metav1.LabelSelector{})
	fill(objects, metav1.LabelSelector{})
}

func defaultHook(c *admissionv1.WebhookClientConfig, rules []admissionv1.RuleWithOperations) {
	if c.Service != nil {
		fill(&c.Service.Port, defaultWebhookPort)
	}
	for i := range rules {
		fill(&rules[i].Scope, admissionv1.AllScopes)
	}
}

func defaultMatchResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	defaultMatching(&m.MatchPolicy, &m.NamespaceSelector, &m.ObjectSelector)
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			fill(&rules[i].Scope, admissionv1.AllScopes)
		}
	}
}

func validatingPolicyKind(c celCompiler) *Kind {
	k := extension("ValidatingAdmissionPolicy", "validatingadmissionpolicies", "validatingadmissionpolicy",
		nameColumn,
		countColumn("Validations", "Validations indicates the number of validation rules defined in this configuration"),
		textColumn("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
		ageColumn)
	k.New = func() Object { return &admissionv1.ValidatingAdmissionPolicy{} }
	k.NewList = func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyList{} }
	return with(k, Rules[*admissionv1.ValidatingAdmissionPolicy]{
		Ratchets: true,
		Validate: func(o *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validateValidatingPolicy(c, o, nil)
		},
		ValidateUpdate: func(o, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validateValidatingPolicy(c, o, old)
		},
		Warnings:       func(o, old *admissionv1.ValidatingAdmissionPolicy) []string { return staticWarning(o.Name, old == nil) },
		ValidateStatus: validateValidatingPolicyStatus,
		Default: func(o *admissionv1.ValidatingAdmissionPolicy) {
			fill(&o.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatchResources(o.Spec.MatchConstraints)
		},
		Spec:   func(o *admissionv1.ValidatingAdmissionPolicy) any { return &o.Spec },
		Status: func(o *admissionv1.ValidatingAdmissionPolicy) any { return &o.Status },
		Row: func(o *admissionv1.ValidatingAdmissionPolicy, now time.Time) []any {
			return []any{o.Name, int64(len(o.Spec.Validations)), paramKindCell(o.Spec.ParamKind), age(o, now)}
		},
	})
}

func mutatingPolicyKind(c celCompiler) *Kind {
	k := extension("MutatingAdmissionPolicy", "mutatingadmissionpolicies", "mutatingadmissionpolicy",
		nameColumn,
		countColumn("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"),
		textColumn("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
		ageColumn)
	k.New = func() Object { return &admissionv1.MutatingAdmissionPolicy{} }
	k.NewList = func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyList{} }
	return with(k, Rules[*admissionv1.MutatingAdmissionPolicy]{
		Ratchets: true,
		Validate: func(o *admissionv1.MutatingAdmissionPolicy) field.ErrorList { return validateMutatingPolicy(c, o, nil) },
		ValidateUpdate: func(o, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
			return validateMutatingPolicy(c, o, old)
		},
		Warnings: func(o, old *admissionv1.MutatingAdmissionPolicy) []string { return staticWarning(o.Name, old == nil) },
		Default: func(o *admissionv1.MutatingAdmissionPolicy) {
			fill(&o.Spec.FailurePolicy, admissionv1.Fail)
			defaultMatchResources(o.Spec.MatchConstraints)
		},
		Spec: func(o *admissionv1.MutatingAdmissionPolicy) any { return &o.Spec },
		Row: func(o *admissionv1.MutatingAdmissionPolicy, now time.Time) []any {
			return []any{o.Name, int64(len(o.Spec.Mutations)), paramKindCell(o.Spec.ParamKind), age(o, now)}
		},
	})
}

func bindingOfPolicy(kind, resource, singular string) Kind {
	return extension(kind, resource, singular,
		nameColumn,
		textColumn("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
		textColumn("ParamRef", "ParamRef indicates the param resource which sets the configuration param"),
		ageColumn)
}

func validatingPolicyBindingKind() *Kind {
	k := bindingOfPolicy("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", "validatingadmissionpolicybinding")
	k.New = func() Object { return &admissionv1.ValidatingAdmissionPolicyBinding{} }
	k.NewList = func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBindingList{} }
	return with(k, Rules[*admissionv1.ValidatingAdmissionPolicyBinding]{
		Ratchets: true,
		Validate: func(o *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			return validateValidatingPolicyBinding(o, nil)
		},
		ValidateUpdate: validateValidatingPolicyBinding,
		Warnings: func(o, old *admissionv1.ValidatingAdmissionPolicyBinding) []string {
			return staticWarning(o.Name, old == nil)
		},
		Default: func(o *admissionv1.ValidatingAdmissionPolicyBinding) { defaultMatchResources(o.Spec.MatchResources) },
		Spec:    func(o *admissionv1.ValidatingAdmissionPolicyBinding) any { return &o.Spec },
		Row: func(o *admissionv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{o.Name, o.Spec.PolicyName, paramRefCell(o.Spec.ParamRef), age(o, now)}
		},
	})
}

func mutatingPolicyBindingKind() *Kind {
	k := bindingOfPolicy("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding")
	k.New = func() Object { return &admissionv1.MutatingAdmissionPolicyBinding{} }
	k.NewList = func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBindingList{} }
	return with(k, Rules[*admissionv1.MutatingAdmissionPolicyBinding]{
		Ratchets: true,
		Validate: func(o *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return validateMutatingPolicyBinding(o, nil)
		},
		ValidateUpdate: validateMutatingPolicyBinding,
		Warnings: func(o, old *admissionv1.MutatingAdmissionPolicyBinding) []string {
			return staticWarning(o.Name, old == nil)
		},
		Default: func(o *admissionv1.MutatingAdmissionPolicyBinding) { defaultMatchResources(o.Spec.MatchResources) },
		Spec:    func(o *admissionv1.MutatingAdmissionPolicyBinding) any { return &o.Spec },
		Row: func(o *admissionv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{o.Name, o.Spec.PolicyName, paramRefCell(o.Spec.ParamRef), age(o, now)}
		},
	})
}

func paramKindCell(k *admissionv1.ParamKind) string {
	if k == nil {
		return unsetCell
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRefCell(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
	case r.Name != "":
		return orText(r.Namespace, "*") + "/" + r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return unsetCell
}
