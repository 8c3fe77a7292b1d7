package fairness

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// schema is a FlowSchema whose level exists.
type schema struct {
	object *flowcontrolv1.FlowSchema
	level  *level
	uid    []string // of the schema and of its level, as values of headers
	lvlUID []string
	seed   uint64
	meters *meters
}

// config is what requests are classified by.
type config struct {
	schemas  []*schema // in the order in which they are asked
	catchAll *schema
}

// classify finds the schema of a request. There always is one.
func (c *config) classify(u *request.User, i *request.Info) *schema {
	for _, s := range c.schemas {
		if matches(s.object.Spec.Rules, u, i) {
			return s
		}
	}
	return c.catchAll
}

// hashSeed makes the hands of flows differ from those of other processes.
var hashSeed = maphash.MakeSeed()

// flow returns the hash of a request's flow.
func (s *schema) flow(u *request.User, i *request.Info) uint64 {
	m := s.object.Spec.DistinguisherMethod
	if m == nil {
		return s.seed
	}
	who := u.Name
	if m.Type == flowcontrolv1.FlowDistinguisherMethodByNamespaceType {
		who = i.Namespace
	}
	return s.seed ^ maphash.String(hashSeed, who)
}

// byPrecedence orders schemas as they are asked.
func byPrecedence(a, b *schema) int {
	return cmp.Or(cmp.Compare(a.object.Spec.MatchingPrecedence, b.object.Spec.MatchingPrecedence), strings.Compare(a.object.Name, b.object.Name))
}

func matches(rules []flowcontrolv1.PolicyRulesWithSubjects, u *request.User, i *request.Info) bool {
	for n := range rules {
		r := &rules[n]
		if !anySubject(r.Subjects, u) {
			continue
		}
		if i.IsResource && anyResource(r.ResourceRules, i) || !i.IsResource && anyPath(r.NonResourceRules, i) {
			return true
		}
	}
	return false
}

func anySubject(subjects []flowcontrolv1.Subject, u *request.User) bool {
	for n := range subjects {
		s := &subjects[n]
		switch {
		case s.User != nil && s.Kind == flowcontrolv1.SubjectKindUser:
			if s.User.Name == flowcontrolv1.NameAll || s.User.Name == u.Name {
				return true
			}
		case s.Group != nil && s.Kind == flowcontrolv1.SubjectKindGroup:
			if s.Group.Name == flowcontrolv1.NameAll || slices.Contains(u.Groups, s.Group.Name) {
				return true
			}
		case s.ServiceAccount != nil && s.Kind == flowcontrolv1.SubjectKindServiceAccount:
			if isAccount(u.Name, s.ServiceAccount) {
				return true
			}
		}
	}
	return false
}

// isAccount says whether a user's name is that of a service account, or of any one in its namespace.
func isAccount(user string, a *flowcontrolv1.ServiceAccountSubject) bool {
	user, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return false
	}
	namespace, name, ok := strings.Cut(user, ":")
	return ok && namespace == a.Namespace && (a.Name == flowcontrolv1.NameAll || a.Name == name)
}

func anyResource(rules []flowcontrolv1.ResourcePolicyRule, i *request.Info) bool {
	for n := range rules {
		r := &rules[n]
		if has(r.Verbs, i.Verb) && hasResource(r.Resources, i) && has(r.APIGroups, i.Group) &&
			(i.Namespace == "" && r.ClusterScope || i.Namespace != "" && has(r.Namespaces, i.Namespace)) {
			return true
		}
	}
	return false
}

func has(list []string, v string) bool {
	return len(list) == 1 && list[0] == flowcontrolv1.VerbAll || slices.Contains(list, v)
}

// hasResource compares with "<resource>" or "<resource>/<subresource>".
func hasResource(list []string, i *request.Info) bool {
	if i.Subresource == "" {
		return has(list, i.Resource)
	}
	for _, r := range list {
		of, sub, _ := strings.Cut(r, "/")
		if r == flowcontrolv1.ResourceAll && len(list) == 1 || of == i.Resource && sub == i.Subresource {
			return true
		}
	}
	return false
}

// anyPath compares paths. A rule for a path is one for all below it.
func anyPath(rules []flowcontrolv1.NonResourcePolicyRule, i *request.Info) bool {
	for n := range rules {
		if !has(rules[n].Verbs, i.Verb) {
			continue
		}
		for _, p := range rules[n].NonResourceURLs {
			if p == flowcontrolv1.NonResourceAll || p == i.Path {
				return true
			}
			p = strings.TrimSuffix(strings.TrimSuffix(p, "*"), "/")
			if rest, ok := strings.CutPrefix(i.Path, p); ok && strings.HasPrefix(rest, "/") {
				return true
			}
		}
	}
	return false
}
