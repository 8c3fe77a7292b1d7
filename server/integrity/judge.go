package integrity

import "slices"

// vote is what a member has at the point that is compared.
type vote struct {
	id    uint64
	sum   uint64
	voter bool // learners are judged, and do not judge
	held  bool // in quarantine: that it differs is no news
}

// verdict is what one comparison says.
type verdict struct {
	compared  int      // members, this one too
	decided   bool     // a majority of the cluster's voters has the same sum
	right     []uint64 // members that have it
	wrong     []uint64 // members that have another one
	differ    bool
	undecided bool // members that are not in quarantine differ, and there is no majority
}

// judge compares members; voters is how many voting members the cluster has, whether they answered or not.
func judge(votes []vote, voters int) verdict {
	v := verdict{compared: len(votes)}
	count, free := map[uint64]int{}, map[uint64]bool{}
	for _, x := range votes {
		if x.sum != votes[0].sum {
			v.differ = true
		}
		if x.voter {
			count[x.sum]++
		}
		if !x.held {
			free[x.sum] = true
		}
	}
	var truth uint64
	for sum, n := range count {
		if n > voters/2 {
			v.decided, truth = true, sum
		}
	}
	v.undecided = !v.decided && len(free) > 1
	for _, x := range votes {
		switch {
		case !v.decided:
		case x.sum == truth:
			v.right = append(v.right, x.id)
		default:
			v.wrong = append(v.wrong, x.id)
		}
	}
	return v
}

func (v *verdict) accuses(id uint64) bool { return slices.Contains(v.wrong, id) }
func (v *verdict) acquits(id uint64) bool { return slices.Contains(v.right, id) }
