package controllers

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
)

// resize spreads a changed number of pods over the replica sets: all to the only one that has pods; none to old ones when the
// latest has all it needs; otherwise in proportion, so that a rollout under way keeps its risk.
func (r *rollout) resize(ctx context.Context) error {
	if only := r.only(); only != nil {
		_, err := r.scale(ctx, only, *r.dep.Spec.Replicas)
		return err
	}
	if r.latest != nil && saturated(r.dep, r.latest) {
		for _, rs := range r.active() {
			if _, err := r.scale(ctx, rs, 0); err != nil {
				return err
			}
		}
		return nil
	}
	if r.dep.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return nil
	}
	sets := r.active()
	if wanted(r.latest) > 0 {
		sets = append(sets, r.latest)
	}
	total := int32(0)
	for _, rs := range sets {
		total += wanted(rs)
	}
	allowed := int32(0)
	if *r.dep.Spec.Replicas > 0 {
		allowed = *r.dep.Spec.Replicas + r.surge()
	}
	return r.spread(ctx, sets, allowed-total, allowed)
}

// only is the replica set that has pods, or is to have them, if there is just one.
func (r *rollout) only() *appsv1.ReplicaSet {
	sets := r.active()
	if wanted(r.latest) > 0 {
		sets = append(sets, r.latest)
	}
	switch len(sets) {
	case 0:
		if r.latest != nil {
			return r.latest
		}
		if n := len(r.old); n > 0 {
			return r.old[n-1]
		}
		return nil
	case 1:
		return sets[0]
	}
	return nil
}

// saturated says that a replica set has all pods that its deployment wants, and that they are available.
func saturated(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	n, err := strconv.ParseInt(rs.Annotations[desiredAnnotation], 10, 32)
	return err == nil && wanted(rs) == *d.Spec.Replicas && int32(n) == *d.Spec.Replicas && rs.Status.AvailableReplicas == *d.Spec.Replicas
}

// spread gives replica sets their share of so many more or fewer pods, the largest first; what rounding left over goes to
// the first. Every set's annotations are brought up to date.
func (r *rollout) spread(ctx context.Context, sets []*appsv1.ReplicaSet, more, allowed int32) error {
	slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		if c := cmp.Compare(wanted(b), wanted(a)); c != 0 {
			return c
		}
		if more > 0 { // newer ones grow first, older ones shrink first
			return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	sizes := shares(sets, more, allowed, r.dep.Status.Replicas)
	for i, rs := range sets {
		c := rs.DeepCopy()
		if !r.annotateSize(c) && wanted(rs) == sizes[i] {
			continue
		}
		changed, err := r.scaled(ctx, rs, sizes[i])
		if err != nil {
			return err
		}
		if rs == r.latest {
			r.latest = changed
		}
	}
	return nil
}

// shares are the sizes of replica sets after so many pods were added to them in proportion to their sizes. allowed is how many
// there may be in all now; how many there might have been before is in a set's annotation.
func shares(sets []*appsv1.ReplicaSet, more, allowed, total int32) []int32 {
	sizes := make([]int32, len(sets))
	added := int32(0)
	for i, rs := range sets {
		sizes[i] = wanted(rs)
		if more == 0 || sizes[i] == 0 {
			continue
		}
		before := total
		if n, err := strconv.ParseInt(rs.Annotations[maxAnnotation], 10, 32); err == nil && n > 0 {
			before = int32(n)
		}
		if before == 0 {
			continue
		}
		share := int32(math.Round(float64(sizes[i])*float64(allowed)/float64(before))) - sizes[i]
		if more > 0 {
			share = min(share, more-added)
		} else {
			share = max(share, more-added)
		}
		sizes[i] += share
		added += share
	}
	if len(sizes) > 0 {
		sizes[0] = max(0, sizes[0]+more-added)
	}
	return sizes
}
