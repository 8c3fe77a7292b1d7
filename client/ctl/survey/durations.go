package survey

import (
	"time"

	"github.com/keelson-io/keelson/api/insightpb"
)

// Since is what was added to a histogram since an earlier look; all of it if there is none, or if the member was restarted
// meanwhile.
func Since(now, earlier *insightpb.Durations) *insightpb.Durations {
	if now == nil || earlier == nil || now.Count < earlier.Count || len(now.Counts) != len(earlier.Counts) {
		return now
	}
	d := &insightpb.Durations{Bounds: now.Bounds, Count: now.Count - earlier.Count, Sum: now.Sum - earlier.Sum}
	for i := range now.Counts {
		if now.Counts[i] < earlier.Counts[i] {
			return now
		}
		d.Counts = append(d.Counts, now.Counts[i]-earlier.Counts[i])
	}
	return d
}

// Sum adds histograms up that have the same bounds; others are left out.
func Sum(all ...*insightpb.Durations) *insightpb.Durations {
	var sum *insightpb.Durations
	for _, d := range all {
		switch {
		case d == nil || len(d.Counts) != len(d.Bounds):
		case sum == nil:
			sum = &insightpb.Durations{Bounds: d.Bounds, Counts: append([]uint64(nil), d.Counts...), Count: d.Count, Sum: d.Sum}
		case len(sum.Counts) == len(d.Counts):
			for i := range d.Counts {
				sum.Counts[i] += d.Counts[i]
			}
			sum.Count, sum.Sum = sum.Count+d.Count, sum.Sum+d.Sum
		}
	}
	return sum
}

// Quantile is an estimate of a quantile (0 to 1), as Prometheus makes it: even within a bucket, and the last bound for what is
// above. False if nothing was counted.
func Quantile(d *insightpb.Durations, q float64) (time.Duration, bool) {
	if d.GetCount() == 0 || len(d.Counts) == 0 || len(d.Counts) != len(d.Bounds) {
		return 0, false
	}
	rank := q * float64(d.Count)
	below, lower := 0.0, 0.0
	for i, n := range d.Counts {
		if float64(n) >= rank && n > 0 {
			part := 1.0
			if inside := float64(n) - below; inside > 0 {
				part = (rank - below) / inside
			}
			return seconds(lower + (d.Bounds[i]-lower)*part), true
		}
		below, lower = float64(n), d.Bounds[i]
	}
	return seconds(lower), true
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
