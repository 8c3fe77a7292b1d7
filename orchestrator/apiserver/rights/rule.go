package rights

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Bits of verbs. A verb that has none of its own shares otherVerb and is looked up by name.
const (
	otherVerb uint16 = 1 << iota
	getVerb
	listVerb
	watchVerb
	createVerb
	updateVerb
	patchVerb
	deleteVerb
	deletecollectionVerb
	allVerbs uint16 = 1<<iota - 1
)

func verbBit(verb string) uint16 {
	switch verb {
	case "get":
		return getVerb
	case "list":
		return listVerb
	case "watch":
		return watchVerb
	case "create":
		return createVerb
	case "update":
		return updateVerb
	case "patch":
		return patchVerb
	case "delete":
		return deleteVerb
	case "deletecollection":
		return deletecollectionVerb
	}
	return otherVerb
}

// query is attributes as rules are compared with them.
type query struct {
	*Attributes
	verb uint16
	hash uint64 // one bit, of the resource
}

func ask(a *Attributes) query {
	return query{Attributes: a, verb: verbBit(a.Verb), hash: resourceHash(a.Resource, a.Subresource)}
}

// resourceHash is one bit for a resource with its subresource, as if they were one string with a slash between them.
func resourceHash(resource, sub string) uint64 {
	n, last := len(resource), resource
	if sub != "" {
		n, last = n+1+len(sub), sub
	}
	if n == 0 {
		return 1
	}
	first := byte('/')
	if resource != "" {
		first = resource[0]
	}
	return 1 << ((uint(n)*7 + uint(first)*3 + uint(last[len(last)-1])) & 63)
}

// rule is a compiled rule. A rule with resources and URLs allows both, with the same verbs.
type rule struct {
	verbs  uint16 // those that may match
	others []string
	every  bool   // all verbs
	hashes uint64 // of resources that may match

	anyGroup, anyResource, anyURL bool

	groups       []string
	resources    []string
	subresources []string // x of */x
	names        []string // empty: all
	urls         []string
	prefixes     []string // of URLs
}

func compileRule(p *rbacv1.PolicyRule) rule {
	r := rule{groups: p.APIGroups, names: p.ResourceNames, anyGroup: slices.Contains(p.APIGroups, rbacv1.APIGroupAll)}
	for _, v := range p.Verbs {
		if v == rbacv1.VerbAll {
			r.every, r.verbs = true, allVerbs
			break
		}
		b := verbBit(v)
		r.verbs |= b
		if b == otherVerb {
			r.others = append(r.others, v)
		}
	}
	for _, res := range p.Resources {
		if res == rbacv1.ResourceAll {
			r.anyResource, r.hashes = true, ^uint64(0)
		} else {
			r.resources = append(r.resources, res)
			r.hashes |= resourceHash(res, "")
		}
		if sub, ok := strings.CutPrefix(res, "*/"); ok {
			r.subresources = append(r.subresources, sub)
			r.hashes = ^uint64(0)
		}
	}
	for _, u := range p.NonResourceURLs {
		switch {
		case u == rbacv1.NonResourceAll:
			r.anyURL = true
		case strings.HasSuffix(u, "*"):
			r.prefixes = append(r.prefixes, strings.TrimRight(u, "*"))
		}
		r.urls = append(r.urls, u)
	}
	return r
}

// allows reports whether the rule allows what is asked.
func (r *rule) allows(q query) bool {
	if q.verb&r.verbs == 0 {
		return false
	}
	if q.IsResource && q.hash&r.hashes == 0 {
		return false
	}
	if q.verb == otherVerb && !r.every && !slices.Contains(r.others, q.Verb) {
		return false
	}
	if !q.IsResource {
		return r.allowsURL(q.Path)
	}
	return r.allowsResource(q.Resource, q.Subresource) &&
		(r.anyGroup || slices.Contains(r.groups, q.Group)) &&
		(len(r.names) == 0 || slices.Contains(r.names, q.Name))
}

func (r *rule) allowsResource(resource, sub string) bool {
	if r.anyResource {
		return true
	}
	if sub == "" {
		return slices.Contains(r.resources, resource)
	}
	n := len(resource)
	for _, res := range r.resources {
		if len(res) == n+1+len(sub) && res[n] == '/' && res[n+1:] == sub && res[:n] == resource {
			return true
		}
	}
	return slices.Contains(r.subresources, sub)
}

func (r *rule) allowsURL(path string) bool {
	if r.anyURL || slices.Contains(r.urls, path) {
		return true
	}
	for _, p := range r.prefixes {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

// ruleset is the rules of one role.
type ruleset struct {
	source []rbacv1.PolicyRule
	rules  []rule
	// What any of the rules may match.
	verbs  uint16
	hashes uint64
	urls   bool
}

func compile(source []rbacv1.PolicyRule) *ruleset {
	s := &ruleset{source: source, rules: make([]rule, len(source))}
	for i := range source {
		r := compileRule(&source[i])
		s.rules[i] = r
		s.verbs |= r.verbs
		s.hashes |= r.hashes
		s.urls = s.urls || len(r.urls) > 0
	}
	return s
}

func (s *ruleset) allows(q query) bool {
	if q.verb&s.verbs == 0 {
		return false
	}
	if q.IsResource {
		if q.hash&s.hashes == 0 {
			return false
		}
	} else if !s.urls {
		return false
	}
	for i := range s.rules {
		if s.rules[i].allows(q) {
			return true
		}
	}
	return false
}

// RulesAllow reports whether one of the rules allows what is asked.
func RulesAllow(a Attributes, rules ...rbacv1.PolicyRule) bool {
	return compile(rules).allows(ask(&a))
}
