package kinds

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// problems collects what is wrong with an object.
type problems struct{ list field.ErrorList }

func (p *problems) add(l ...*field.Error) { p.list = append(p.list, l...) }

func (p *problems) invalid(at *field.Path, value any, detail string) {
	p.add(field.Invalid(at, value, detail))
}

func (p *problems) required(at *field.Path, detail string) { p.add(field.Required(at, detail)) }

func (p *problems) forbidden(at *field.Path, detail string) { p.add(field.Forbidden(at, detail)) }

func (p *problems) notFound(at *field.Path, value any) { p.add(field.NotFound(at, value)) }

func (p *problems) duplicate(at *field.Path, value any) { p.add(field.Duplicate(at, value)) }

// each adds a problem for every message about a value.
func (p *problems) each(at *field.Path, value any, messages []string) {
	for _, m := range messages {
		p.invalid(at, value, m)
	}
}

func (p *problems) notNegative(at *field.Path, n int64) {
	p.add(validation.ValidateNonnegativeField(n, at)...)
}

func (p *problems) quantityNotNegative(at *field.Path, q resource.Quantity) {
	if q.Sign() < 0 {
		p.invalid(at, q.String(), validation.IsNegativeErrorMsg)
	}
}

// have requires a text.
func (p *problems) have(at *field.Path, value string) bool {
	if value == "" {
		p.required(at, "")
	}
	return value != ""
}

func (p *problems) label(at *field.Path, value string) {
	p.each(at, value, utilvalidation.IsDNS1123Label(value))
}

func (p *problems) subdomain(at *field.Path, value string) {
	p.each(at, value, utilvalidation.IsDNS1123Subdomain(value))
}

func (p *problems) qualifiedName(at *field.Path, value string) {
	p.each(at, value, utilvalidation.IsQualifiedName(value))
}

// name checks the name of another object, which is a subdomain.
func (p *problems) name(at *field.Path, value string) {
	p.each(at, value, validation.NameIsDNSSubdomain(value, false))
}

func (p *problems) labels(at *field.Path, set map[string]string) {
	p.add(metav1validation.ValidateLabels(set, at)...)
}

func (p *problems) labelKey(at *field.Path, key string) {
	p.add(metav1validation.ValidateLabelName(key, at)...)
}

func (p *problems) labelValue(at *field.Path, value string) {
	p.each(at, value, utilvalidation.IsValidLabelValue(value))
}

// unique adds a value to what was seen, or a problem if it was.
func unique[T comparable](p *problems, seen map[T]bool, at *field.Path, value T) {
	if seen[value] {
		p.duplicate(at, value)
	}
	seen[value] = true
}

// oneOf allows some values. They must be sorted as the message has them.
func oneOf[T ~string](p *problems, at *field.Path, value T, allowed ...T) {
	if !slices.Contains(allowed, value) {
		p.add(field.NotSupported(at, value, allowed))
	}
}

// mustBeOneOf allows some values, and requires one.
func mustBeOneOf[T ~string](p *problems, at *field.Path, value T, allowed ...T) {
	if p.have(at, string(value)) {
		oneOf(p, at, value, allowed...)
	}
}
