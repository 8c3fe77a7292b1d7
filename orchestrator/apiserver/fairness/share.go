package fairness

import (
	"math"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
)

// share is what a level's configuration gives it, in seats.
type share struct {
	nominal, lower, upper int
}

// commons are what all types of levels have: shares, and the percentages that are lent and may be borrowed. borrow is nil if
// there is no bound.
func commons(s *flowcontrolv1.PriorityLevelConfigurationSpec) (shares, lend int32, borrow *int32) {
	get := func(p *int32, def int32) int32 {
		if p == nil {
			return def
		}
		return *p
	}
	switch {
	case s.Limited != nil:
		return get(s.Limited.NominalConcurrencyShares, defaultShares), get(s.Limited.LendablePercent, 0), s.Limited.BorrowingLimitPercent
	case s.Exempt != nil:
		return get(s.Exempt.NominalConcurrencyShares, 0), get(s.Exempt.LendablePercent, 0), nil
	}
	return 0, 0, nil
}

const defaultShares = 30

// divide finds the share of a level in all seats of the server.
func divide(s *flowcontrolv1.PriorityLevelConfigurationSpec, seats int, allShares float64) share {
	shares, lend, borrow := commons(s)
	nominal := 0
	if allShares > 0 {
		nominal = int(math.Ceil(float64(seats) * float64(shares) / allShares))
	}
	part := func(percent int32) int { return int(math.Round(float64(nominal) * float64(percent) / 100)) }
	// Nobody lends his last seat: a level without one would reject all, and nobody would know that it wants any.
	out := share{nominal: nominal, lower: max(min(1, nominal), nominal-part(lend)), upper: nominal + seats}
	if borrow != nil {
		out.upper = nominal + part(*borrow)
	}
	return out
}

// claim is what a level asks of an allocation.
type claim struct{ target, lower, upper float64 }

// leastTarget keeps levels without a target in proportion to each other.
const leastTarget = 0.001

// allocate divides a sum so that all get the same fraction of their targets, but no less than their lower and no more than
// their upper bounds, and returns the fraction. Where the bounds do not let the sum be reached, they are what all get.
func allocate(sum float64, claims []claim) ([]float64, float64) {
	give := func(fraction float64) (out []float64, total float64) {
		out = make([]float64, len(claims))
		for i, c := range claims {
			out[i] = max(c.lower, min(c.upper, fraction*max(c.target, leastTarget)))
			total += out[i]
		}
		return out, total
	}
	low, high := 0.0, 0.0
	for _, c := range claims {
		high = max(high, c.upper/max(c.target, leastTarget))
	}
	if _, most := give(high); most <= sum {
		out, _ := give(high)
		return out, high
	}
	for range 100 { // the total grows with the fraction: halve until floats end
		middle := low + (high-low)/2
		if _, total := give(middle); total < sum {
			low = middle
		} else {
			high = middle
		}
	}
	out, _ := give(high)
	return out, high
}
