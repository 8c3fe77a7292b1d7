package kinds

import (
	"fmt"
	"math"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxAmounts is how many amounts of a capacity there may be to choose from.
const maxAmounts = 10

// requestPolicy checks how much of a capacity can be asked for: one of some amounts, or one in a range.
func (p *problems) requestPolicy(at *field.Path, capacity resource.Quantity, r *resourcev1.CapacityRequestPolicy) {
	switch values, in := len(r.ValidValues) > 0, r.ValidRange != nil; {
	case values && in:
		p.forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)
	case values && r.Default == nil:
		p.required(at.Child("default"), "required when validValues is defined")
	case values:
		p.amounts(at.Child("validValues"), capacity, *r.Default, r.ValidValues)
	case in && r.Default == nil:
		p.required(at.Child("default"), "required when validRange is defined")
	case in:
		p.amountRange(at.Child("validRange"), capacity, *r.Default, r.ValidRange)
	}
}

func (p *problems) amounts(at *field.Path, capacity, normal resource.Quantity, values []resource.Quantity) {
	found := false
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			p.invalid(at.Index(i), values[i].String(), "values must be sorted in ascending order")
		}
	}
	fewUnique(p, at, values, maxAmounts,
		func(q *resource.Quantity) string { return q.AsDec().String() },
		func(at *field.Path, q *resource.Quantity) {
			if q.Cmp(capacity) > 0 {
				p.invalid(at, q.String(), "option is larger than capacity value: "+capacity.String())
			}
			found = found || q.Cmp(normal) == 0
		})
	if !found {
		p.invalid(at, normal.String(), "default value is not valid according to the requestPolicy")
	}
}

func (p *problems) amountRange(at *field.Path, capacity, normal resource.Quantity, r *resourcev1.CapacityRequestPolicyRange) {
	lowest := r.Min
	if lowest == nil {
		p.required(at.Child("min"), "required when validRange is defined")
		return
	}
	if lowest.Cmp(capacity) > 0 {
		p.invalid(at.Child("min"), lowest.String(), "min is larger than capacity value: "+capacity.String())
	}
	if normal.Cmp(*lowest) < 0 {
		p.invalid(at.Child("default"), normal.String(), "default is less than min: "+lowest.String())
	}
	if highest, high := r.Max, at.Child("max"); highest != nil {
		if lowest.Cmp(*highest) > 0 {
			p.invalid(high, lowest.String(), "min is larger than max: "+highest.String())
		}
		if highest.Cmp(capacity) > 0 {
			p.invalid(high, highest.String(), "max is larger than capacity value: "+capacity.String())
		}
		if normal.Cmp(*highest) > 0 {
			p.invalid(at.Child("default"), normal.String(), "default is more than max: "+highest.String())
		}
	}
	named := []namedQuantity{{"default", &normal}, {"min", lowest}, {"max", r.Max}, {"step", r.Step}}
	fine := anyFraction(named)
	if fine && !p.fitMilli(at, named) {
		return
	}
	if r.Step != nil {
		p.amountStep(at, capacity, named, fine)
	}
}

type namedQuantity struct {
	name string
	q    *resource.Quantity // may be nil
}

// anyFraction says whether a quantity is no whole number.
func anyFraction(l []namedQuantity) bool {
	for _, n := range l {
		if n.q == nil {
			continue
		}
		if whole := n.q.DeepCopy(); !whole.RoundUp(0) {
			return true
		}
	}
	return false
}

// fitMilli refuses quantities that are not a whole number of thousandths.
func (p *problems) fitMilli(at *field.Path, l []namedQuantity) bool {
	ok := true
	for _, n := range l {
		if n.q != nil && n.q.Cmp(*resource.NewMilliQuantity(n.q.MilliValue(), n.q.Format)) != 0 {
			p.invalid(at.Child(n.name), n.q.String(), "value cannot be represented as a milli value")
			ok = false
		}
	}
	return ok
}

// amountStep checks that the default and the highest amount are steps away from the lowest. The amounts are those of
// amountRange, in its order; fine counts in thousandths.
func (p *problems) amountStep(at *field.Path, capacity resource.Quantity, l []namedQuantity, fine bool) {
	normal, lowest, highest, step := l[0].q, l[1].q, l[2].q, l[3].q
	stepAt := at.Child("step")
	if step.Sign() <= 0 {
		p.invalid(stepAt, step.String(), "must be greater than zero")
		return
	}
	first := lowest.DeepCopy()
	first.Add(*step)
	if first.Cmp(capacity) > 0 {
		p.invalid(stepAt, step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", first.String(), capacity.String()))
	}
	if !fine && !p.fitInt64(at, l) {
		return
	}
	count := (*resource.Quantity).Value
	if fine {
		count = (*resource.Quantity).MilliValue
	}
	for _, q := range []*resource.Quantity{normal, highest} {
		if q != nil && (count(q)-count(lowest))%count(step) != 0 {
			p.invalid(stepAt, q.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", step.String(), lowest.String()))
		}
	}
}

// fitInt64 refuses quantities with which one cannot count.
func (p *problems) fitInt64(at *field.Path, l []namedQuantity) bool {
	before := len(p.list)
	for _, n := range l {
		switch at := at.Child(n.name); {
		case n.q == nil:
		case n.q.Sign() < 0:
			p.invalid(at, n.q.String(), validation.IsNegativeErrorMsg)
		case n.q.CmpInt64(math.MaxInt64) > 0:
			p.invalid(at, n.q.String(), fmt.Sprintf("must not be larger than %d", math.MaxInt64))
		}
	}
	return len(p.list) == before
}
