package rights

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Missing returns what rules give that owned rules do not, as rules of one verb, one resource or URL, and at most one name.
// It is exact as long as no single right is the sum of several owned rules, which is impossible for rights that small.
func Missing(owned, rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var missing []rbacv1.PolicyRule
	for i := range rules {
		eachRight(&rules[i], func(r right) {
			if !slices.ContainsFunc(owned, func(o rbacv1.PolicyRule) bool { return r.within(&o) }) {
				missing = append(missing, r.rule())
			}
		})
	}
	return missing
}

// right is the smallest part of a rule.
type right struct {
	verb            string
	url             string
	group, resource string
	name            string
	isURL, named    bool
}

func eachRight(r *rbacv1.PolicyRule, do func(right)) {
	for _, group := range r.APIGroups {
		for _, resource := range r.Resources {
			for _, verb := range r.Verbs {
				for _, name := range r.ResourceNames {
					do(right{verb: verb, group: group, resource: resource, name: name, named: true})
				}
				if len(r.ResourceNames) == 0 {
					do(right{verb: verb, group: group, resource: resource})
				}
			}
		}
	}
	for _, url := range r.NonResourceURLs {
		for _, verb := range r.Verbs {
			do(right{verb: verb, url: url, isURL: true})
		}
	}
}

func (r right) rule() rbacv1.PolicyRule {
	p := rbacv1.PolicyRule{Verbs: []string{r.verb}}
	if r.isURL {
		p.NonResourceURLs = []string{r.url}
		return p
	}
	p.APIGroups, p.Resources = []string{r.group}, []string{r.resource}
	if r.named {
		p.ResourceNames = []string{r.name}
	}
	return p
}

// within reports whether a rule includes the right.
func (r right) within(o *rbacv1.PolicyRule) bool {
	if !slices.Contains(o.Verbs, "*") && !slices.Contains(o.Verbs, r.verb) {
		return false
	}
	if r.isURL {
		// A rule that is narrowed to names counts for URLs, too, only if it has none.
		return len(o.ResourceNames) == 0 && slices.ContainsFunc(o.NonResourceURLs, func(u string) bool {
			return u == r.url || strings.HasSuffix(u, "*") && strings.HasPrefix(r.url, strings.TrimRight(u, "*"))
		})
	}
	if !slices.Contains(o.APIGroups, "*") && !slices.Contains(o.APIGroups, r.group) {
		return false
	}
	if len(o.ResourceNames) > 0 && (!r.named || !slices.Contains(o.ResourceNames, r.name)) {
		return false
	}
	if slices.Contains(o.Resources, "*") || slices.Contains(o.Resources, r.resource) {
		return true
	}
	_, sub, ok := strings.Cut(r.resource, "/")
	return ok && slices.Contains(o.Resources, "*/"+sub)
}

// compact joins rules for the same resource and name that differ in their verbs. Rules for URLs stay as they are.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	type key struct {
		group, resource, name string
		named                 bool
	}
	at := map[key]int{}
	var joined []rbacv1.PolicyRule
	for i := range rules {
		r := &rules[i]
		if len(r.NonResourceURLs) > 0 || len(r.APIGroups) != 1 || len(r.Resources) != 1 || len(r.ResourceNames) > 1 {
			joined = append(joined, *r)
			continue
		}
		k := key{group: r.APIGroups[0], resource: r.Resources[0]}
		if len(r.ResourceNames) == 1 {
			k.name, k.named = r.ResourceNames[0], true
		}
		if j, ok := at[k]; ok {
			joined[j].Verbs = append(joined[j].Verbs, r.Verbs...)
			continue
		}
		at[k] = len(joined)
		joined = append(joined, *r.DeepCopy())
	}
	return joined
}

// describe writes a rule in one line.
func describe(r *rbacv1.PolicyRule) string {
	var parts []string
	add := func(name string, values []string) {
		if len(values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", name, values))
		}
	}
	add("APIGroups", r.APIGroups)
	add("Resources", r.Resources)
	add("NonResourceURLs", r.NonResourceURLs)
	add("ResourceNames", r.ResourceNames)
	add("Verbs", r.Verbs)
	return "{" + strings.Join(parts, ", ") + "}"
}
