package rights

import (
	_ "embed"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

//go:embed defaults.txt
var defaultPolicy string

const (
	bootstrapLabel  = "kubernetes.io/bootstrapping"
	aggregatePrefix = "rbac.authorization.k8s.io/aggregate-to-"
)

// Defaults returns the roles and bindings that every cluster has, as new objects: roles before bindings. Aggregated roles have
// no rules yet.
func Defaults() []kinds.Object {
	objects, err := parseDefaults(defaultPolicy)
	if err != nil {
		panic(fmt.Sprintf("rights: the default policy is broken: %v", err)) // it is compiled in
	}
	return objects
}

// parseDefaults reads the form that defaults.txt explains.
func parseDefaults(text string) ([]kinds.Object, error) {
	var objects []kinds.Object
	for n, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		var err error
		switch {
		case len(words) == 0 || words[0] == "#" || strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, " "):
			var o kinds.Object
			if o, err = beginDefault(words); err == nil {
				objects = append(objects, o)
			}
		case len(objects) == 0:
			err = fmt.Errorf("no object yet")
		default:
			err = addDefault(objects[len(objects)-1], words)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return objects, nil
}

// beginDefault makes an object from its first line.
func beginDefault(words []string) (kinds.Object, error) {
	if len(words) < 2 {
		return nil, fmt.Errorf("%q is too short", words)
	}
	meta := metav1.ObjectMeta{
		Labels:      map[string]string{bootstrapLabel: "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
	meta.Namespace, meta.Name = namespaced(words[1])
	var gathers *rbacv1.AggregationRule
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName}
	for _, w := range words[2:] {
		if role, ok := strings.CutPrefix(w, "joins="); ok {
			meta.Labels[aggregatePrefix+role] = "true"
		} else if role, ok := strings.CutPrefix(w, "gathers="); ok {
			gathers = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
				{MatchLabels: map[string]string{aggregatePrefix + role: "true"}},
			}}
		} else if ref.Kind, ref.Name, ok = strings.Cut(w, "/"); !ok {
			return nil, fmt.Errorf("what is %q?", w)
		}
	}
	kind := func(k string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: k}
	}
	switch k := words[0]; k {
	case "ClusterRole":
		return &rbacv1.ClusterRole{TypeMeta: kind(k), ObjectMeta: meta, AggregationRule: gathers}, nil
	case "Role":
		return &rbacv1.Role{TypeMeta: kind(k), ObjectMeta: meta}, nil
	case "ClusterRoleBinding":
		return &rbacv1.ClusterRoleBinding{TypeMeta: kind(k), ObjectMeta: meta, RoleRef: ref}, nil
	case "RoleBinding":
		return &rbacv1.RoleBinding{TypeMeta: kind(k), ObjectMeta: meta, RoleRef: ref}, nil
	}
	return nil, fmt.Errorf("what is a %q?", words[0])
}

// addDefault adds a line with a rule or a subject to an object.
func addDefault(o kinds.Object, words []string) error {
	switch o := o.(type) {
	case *rbacv1.ClusterRole:
		return addRule(&o.Rules, words)
	case *rbacv1.Role:
		return addRule(&o.Rules, words)
	case *rbacv1.ClusterRoleBinding:
		return addSubject(&o.Subjects, words)
	case *rbacv1.RoleBinding:
		return addSubject(&o.Subjects, words)
	}
	return nil
}

func addRule(rules *[]rbacv1.PolicyRule, words []string) error {
	if len(words) < 3 || len(words) > 4 {
		return fmt.Errorf("rule %q", words)
	}
	list := func(w string) []string { return strings.Split(w, ",") }
	r := rbacv1.PolicyRule{Verbs: list(words[2])}
	if words[0] == "url" {
		r.NonResourceURLs = list(words[1])
	} else {
		r.APIGroups, r.Resources = list(words[0]), list(words[1])
		for i, g := range r.APIGroups {
			if g == "core" {
				r.APIGroups[i] = ""
			}
		}
		if len(words) == 4 {
			r.ResourceNames = list(words[3])
		}
	}
	*rules = append(*rules, r)
	return nil
}

func addSubject(subjects *[]rbacv1.Subject, words []string) error {
	if len(words) != 2 {
		return fmt.Errorf("subject %q", words)
	}
	s := rbacv1.Subject{Kind: words[0], Name: words[1]}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		s.Namespace, s.Name = namespaced(words[1])
	case rbacv1.UserKind, rbacv1.GroupKind:
		s.APIGroup = rbacv1.GroupName
	default:
		return fmt.Errorf("what is a %q?", s.Kind)
	}
	*subjects = append(*subjects, s)
	return nil
}

// namespaced splits "[<namespace>/]<name>".
func namespaced(s string) (namespace, name string) {
	if before, after, ok := strings.Cut(s, "/"); ok {
		return before, after
	}
	return "", s
}
