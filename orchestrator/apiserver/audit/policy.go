package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

// Policy says what is written of a request.
type Policy struct {
	rules []rule
	rest  Verdict // if no rule fits
}

// Verdict is what is written of one request.
type Verdict struct {
	Level      auditv1.Level
	OmitStages []auditv1.Stage
	// OmitManagedFields leaves them out of objects.
	OmitManagedFields bool
}

type rule struct {
	*auditv1.PolicyRule
	verdict Verdict
}

// LoadPolicy reads a policy file, YAML or JSON. Fields that are not known are errors.
func LoadPolicy(data []byte) (*Policy, error) {
	p := &auditv1.Policy{}
	if err := yaml.UnmarshalStrict(data, p); err != nil {
		return nil, fmt.Errorf("audit: policy: %w", err)
	}
	if p.APIVersion != auditv1.SchemeGroupVersion.String() || p.Kind != "Policy" {
		return nil, fmt.Errorf("audit: policy: want apiVersion %s and kind Policy, not %q and %q", auditv1.SchemeGroupVersion, p.APIVersion, p.Kind)
	}
	return NewPolicy(p)
}

// NewPolicy makes a Policy of its API object, which must not be changed any more.
func NewPolicy(p *auditv1.Policy) (*Policy, error) {
	if err := validatePolicy(p).ToAggregate(); err != nil {
		return nil, fmt.Errorf("audit: policy: %w", err)
	}
	if len(p.Rules) == 0 {
		return nil, errors.New("audit: policy: loaded illegal policy with 0 rules")
	}
	out := &Policy{rest: Verdict{Level: auditv1.LevelNone, OmitStages: p.OmitStages, OmitManagedFields: p.OmitManagedFields}}
	for i := range p.Rules {
		r := &p.Rules[i]
		v := Verdict{Level: r.Level, OmitManagedFields: p.OmitManagedFields, OmitStages: slices.Concat(p.OmitStages, r.OmitStages)}
		if r.OmitManagedFields != nil {
			v.OmitManagedFields = *r.OmitManagedFields
		}
		out.rules = append(out.rules, rule{r, v})
	}
	return out, nil
}

// Judge returns what is written of a request.
func (p *Policy) Judge(a *rights.Attributes) Verdict {
	for i := range p.rules {
		if r := &p.rules[i]; r.fits(a) {
			return r.verdict
		}
	}
	return p.rest
}

func (r *rule) fits(a *rights.Attributes) bool {
	if len(r.Users) > 0 && (a.User == nil || !slices.Contains(r.Users, a.User.Name)) {
		return false
	}
	if len(r.UserGroups) > 0 && (a.User == nil || !slices.ContainsFunc(a.User.Groups, func(g string) bool { return slices.Contains(r.UserGroups, g) })) {
		return false
	}
	switch {
	case len(r.Verbs) > 0 && !slices.Contains(r.Verbs, a.Verb):
		return false
	case len(r.Namespaces) > 0 || len(r.Resources) > 0:
		return a.IsResource && r.fitsResource(a)
	case len(r.NonResourceURLs) > 0:
		return !a.IsResource && slices.ContainsFunc(r.NonResourceURLs, func(u string) bool {
			return u == "*" || u == a.Path || strings.HasSuffix(u, "*") && strings.HasPrefix(a.Path, strings.TrimRight(u, "*"))
		})
	}
	return true
}

func (r *rule) fitsResource(a *rights.Attributes) bool {
	if len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, a.Namespace) {
		return false
	}
	if len(r.Resources) == 0 {
		return true
	}
	for i := range r.Resources {
		g := &r.Resources[i]
		if g.Group != a.Group && g.Group != "*" {
			continue
		}
		if len(g.Resources) == 0 {
			return true
		}
		if len(g.ResourceNames) > 0 && !slices.Contains(g.ResourceNames, a.Name) {
			continue
		}
		if slices.ContainsFunc(g.Resources, func(res string) bool { return names(res, a.Resource, a.Subresource) }) {
			return true
		}
	}
	return false
}

// names reports whether "pods", "pods/log", "*", "pods/*" or "*/log" names a resource. "pods/*" includes the pods, as
// Kubernetes has it.
func names(pattern, resource, sub string) bool {
	first, second, ok := strings.Cut(pattern, "/")
	switch {
	case pattern == "*":
		return true
	case !ok:
		return sub == "" && pattern == resource
	case second == "*" && first == resource:
		return true
	case first == "*" && sub != "" && second == sub:
		return true
	}
	return sub != "" && first == resource && second == sub
}

func validatePolicy(p *auditv1.Policy) field.ErrorList {
	errs := validateStages(p.OmitStages, field.NewPath("omitStages"))
	for i := range p.Rules {
		r, at := &p.Rules[i], field.NewPath("rules").Index(i)
		levels := []auditv1.Level{auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse}
		switch {
		case r.Level == "":
			errs = append(errs, field.Required(at.Child("level"), ""))
		case !slices.Contains(levels, r.Level):
			errs = append(errs, field.NotSupported(at.Child("level"), r.Level, levels))
		}
		errs = append(errs, validateURLs(r.NonResourceURLs, at.Child("nonResourceURLs"))...)
		for _, g := range r.Resources {
			if g.Group != "" && g.Group != "*" {
				if msgs := validation.NameIsDNSSubdomain(g.Group, false); len(msgs) > 0 {
					errs = append(errs, field.Invalid(at.Child("resources", "group"), g.Group, strings.Join(msgs, ",")))
				}
			}
			if len(g.ResourceNames) > 0 && len(g.Resources) == 0 {
				errs = append(errs, field.Invalid(at.Child("resources", "resourceNames"), g.ResourceNames, "using resourceNames requires at least one resource"))
			}
		}
		errs = append(errs, validateStages(r.OmitStages, at.Child("omitStages"))...)
		if len(r.NonResourceURLs) > 0 && (len(r.Resources) > 0 || len(r.Namespaces) > 0) {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
	}
	return errs
}

func validateURLs(urls []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, u := range urls {
		if u == "*" {
			continue
		}
		if !strings.HasPrefix(u, "/") {
			errs = append(errs, field.Invalid(at.Index(i), u, "non-resource URL rules must begin with a '/' character"))
		}
		if u != "" && strings.Contains(u[:len(u)-1], "*") {
			errs = append(errs, field.Invalid(at.Index(i), u, "non-resource URL wildcards '*' must be the final character of the rule"))
		}
	}
	return errs
}

func validateStages(stages []auditv1.Stage, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range stages {
		switch s {
		case auditv1.StageRequestReceived, auditv1.StageResponseStarted, auditv1.StageResponseComplete, auditv1.StagePanic:
		default:
			errs = append(errs, field.Invalid(at.Index(i), string(s), "allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"))
		}
	}
	return errs
}
