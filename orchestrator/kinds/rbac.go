package kinds

import (
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// rbacKinds are those of rbac.authorization.k8s.io.
func rbacKinds() []*Kind {
	return []*Kind{clusterRoleBindingKind(), clusterRoleKind(), roleBindingKind(), roleKind()}
}

// right is what the kinds of the group have in common.
func right(kind, resource, singular string, namespaced bool) Kind {
	return Kind{
		GroupVersionKind: rbacv1.SchemeGroupVersion.WithKind(kind), Resource: resource, Singular: singular, Namespaced: namespaced, Place: resource,
		NameErrors: func(name string, _ bool) []string { return content.IsPathSegmentName(name) },
		Lifecycle:  Lifecycle{Unconditional: true, CreateOnUpdate: true},
	}
}

func roleKind() *Kind {
	k := right("Role", "roles", "role", true)
	k.New, k.NewList = func() Object { return &rbacv1.Role{} }, func() runtime.Object { return &rbacv1.RoleList{} }
	k.Columns = []metav1.TableColumnDefinition{nameColumn, createdColumn}
	return with(k, Rules[*rbacv1.Role]{
		Validate: func(o *rbacv1.Role) field.ErrorList {
			var p problems
			p.policyRules(o.Rules, true)
			return p.list
		},
		Row: func(o *rbacv1.Role, _ time.Time) []any { return []any{o.Name, created(o)} },
	})
}

func clusterRoleKind() *Kind {
	k := right("ClusterRole", "clusterroles", "clusterrole", false)
	k.New, k.NewList = func() Object { return &rbacv1.ClusterRole{} }, func() runtime.Object { return &rbacv1.ClusterRoleList{} }
	k.Columns = []metav1.TableColumnDefinition{nameColumn, createdColumn}
	return with(k, Rules[*rbacv1.ClusterRole]{
		Validate: validateClusterRole,
		Row:      func(o *rbacv1.ClusterRole, _ time.Time) []any { return []any{o.Name, created(o)} },
	})
}

func validateClusterRole(o *rbacv1.ClusterRole) field.ErrorList {
	var p problems
	p.policyRules(o.Rules, false)
	if a := o.AggregationRule; a != nil {
		at := field.NewPath("aggregationRule", "clusterRoleSelectors")
		if len(a.ClusterRoleSelectors) == 0 {
			p.required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil")
		}
		for i := range a.ClusterRoleSelectors {
			selector := &a.ClusterRoleSelectors[i]
			p.add(metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, at.Index(i))...)
			if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
				p.invalid(at.Index(i), nil, "invalid label selector.")
			}
		}
	}
	return p.list
}

func (p *problems) policyRules(rules []rbacv1.PolicyRule, namespaced bool) {
	for i := range rules {
		p.policyRule(field.NewPath("rules").Index(i), &rules[i], namespaced)
	}
}

func (p *problems) policyRule(at *field.Path, r *rbacv1.PolicyRule, namespaced bool) {
	if len(r.Verbs) == 0 {
		p.required(at.Child("verbs"), "")
	}
	if len(r.NonResourceURLs) > 0 {
		if namespaced {
			p.invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs")
		}
		if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
			p.invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs")
		}
		return
	}
	if len(r.APIGroups) == 0 {
		p.required(at.Child("apiGroups"), "resource rules must supply at least one api group")
	}
	if len(r.Resources) == 0 {
		p.required(at.Child("resources"), "resource rules must supply at least one resource")
	}
}

func roleBindingKind() *Kind {
	k := right("RoleBinding", "rolebindings", "rolebinding", true)
	k.New, k.NewList = func() Object { return &rbacv1.RoleBinding{} }, func() runtime.Object { return &rbacv1.RoleBindingList{} }
	k.Columns = bindingColumns("roleBinding", rbacv1.RoleBinding{}.SwaggerDoc()["roleRef"])
	return with(k, Rules[*rbacv1.RoleBinding]{
		Default: func(o *rbacv1.RoleBinding) { defaultBinding(&o.RoleRef, o.Subjects) },
		Validate: func(o *rbacv1.RoleBinding) field.ErrorList {
			return validateBinding(&o.RoleRef, o.Subjects, true, "Role", "ClusterRole")
		},
		ValidateUpdate: func(o, old *rbacv1.RoleBinding) field.ErrorList {
			return validation.ValidateImmutableField(o.RoleRef, old.RoleRef, field.NewPath("roleRef"))
		},
		Row: func(o *rbacv1.RoleBinding, now time.Time) []any { return bindingRow(o, &o.RoleRef, o.Subjects, now) },
	})
}

func clusterRoleBindingKind() *Kind {
	k := right("ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", false)
	k.New, k.NewList = func() Object { return &rbacv1.ClusterRoleBinding{} }, func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} }
	k.Columns = bindingColumns("clusterRoleBinding", rbacv1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"])
	return with(k, Rules[*rbacv1.ClusterRoleBinding]{
		Default: func(o *rbacv1.ClusterRoleBinding) { defaultBinding(&o.RoleRef, o.Subjects) },
		Validate: func(o *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateBinding(&o.RoleRef, o.Subjects, false, "ClusterRole")
		},
		ValidateUpdate: func(o, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validation.ValidateImmutableField(o.RoleRef, old.RoleRef, field.NewPath("roleRef"))
		},
		Row: func(o *rbacv1.ClusterRoleBinding, now time.Time) []any {
			return bindingRow(o, &o.RoleRef, o.Subjects, now)
		},
	})
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	fillZero(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if s := &subjects[i]; s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind {
			fillZero(&s.APIGroup, rbacv1.GroupName)
		}
	}
}

func validateBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool, roles ...string) field.ErrorList {
	var p problems
	at := field.NewPath("roleRef")
	oneOf(&p, at.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName)
	oneOf(&p, at.Child("kind"), ref.Kind, roles...)
	if p.have(at.Child("name"), ref.Name) {
		p.each(at.Child("name"), ref.Name, content.IsPathSegmentName(ref.Name))
	}
	for i := range subjects {
		p.subject(field.NewPath("subjects").Index(i), &subjects[i], namespaced)
	}
	return p.list
}

func (p *problems) subject(at *field.Path, s *rbacv1.Subject, namespaced bool) {
	p.have(at.Child("name"), s.Name)
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			p.each(at.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))
		}
		oneOf(p, at.Child("apiGroup"), s.APIGroup, "")
		if !namespaced {
			p.have(at.Child("namespace"), s.Namespace)
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		oneOf(p, at.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)
	default:
		oneOf(p, at.Child("kind"), s.Kind, rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)
	}
}

func bindingColumns(kind, roleDoc string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn,
		textColumn("Role", roleDoc),
		ageColumn,
		wideColumn("Users", "Users in the "+kind),
		wideColumn("Groups", "Groups in the "+kind),
		wideColumn("ServiceAccounts", "ServiceAccounts in the "+kind),
	}
}

func bindingRow(o metav1.Object, ref *rbacv1.RoleRef, subjects []rbacv1.Subject, now time.Time) []any {
	var users, groups, accounts []string
	for i := range subjects {
		switch s := &subjects[i]; s.Kind {
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		}
	}
	return []any{
		o.GetName(), ref.Kind + "/" + ref.Name, age(o, now), strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}
