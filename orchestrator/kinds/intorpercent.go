package kinds

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// intOrPercent checks a number that may be a percentage.
func (p *problems) intOrPercent(at *field.Path, v intstr.IntOrString) {
	switch v.Type {
	case intstr.String:
		p.each(at, v, utilvalidation.IsValidPercent(v.StrVal))
	case intstr.Int:
		p.notNegative(at, int64(v.IntValue()))
	default:
		p.invalid(at, v, "must be an integer or percentage (e.g '5%%')")
	}
}

// percentInRange allows at most 100%.
func (p *problems) percentInRange(at *field.Path, v intstr.IntOrString) {
	if n, ok := percent(v); ok && n > 100 {
		p.invalid(at, v, "must not be greater than 100%")
	}
}

func percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(utilvalidation.IsValidPercent(v.StrVal)) != 0 {
		return 0, false
	}
	n, _ := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, true
}

// amount is the number, or the percentage.
func amount(v intstr.IntOrString) int {
	if n, ok := percent(v); ok {
		return n
	}
	return v.IntValue()
}
