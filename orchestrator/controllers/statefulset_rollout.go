package controllers

import (
	"cmp"
	"context"
	"errors"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// statefulRollout is one look at a stateful set.
type statefulRollout struct {
	*statefulController
	set        *appsv1.StatefulSet
	owner      owner
	slots      []*corev1.Pod // of the numbers that are wanted, the lowest first; nil: it is not there
	surplus    []*corev1.Pod // of other numbers, the highest first
	revisions  []*appsv1.ControllerRevision
	current    *appsv1.ControllerRevision // that pods were made from before
	latest     *appsv1.ControllerRevision // that pods are to be made from
	collisions int32
}

// start is the first number.
func (r *statefulRollout) start() int {
	if o := r.set.Spec.Ordinals; o != nil {
		return int(o.Start)
	}
	return 0
}

// wants says whether there is to be a pod with a number.
func (r *statefulRollout) wants(ordinal int) bool {
	return ordinal >= r.start() && ordinal < r.start()+int(*r.set.Spec.Replicas)
}

// all are the pods that there are.
func (r *statefulRollout) all() (out []*corev1.Pod) {
	for _, p := range r.slots {
		if p != nil {
			out = append(out, p)
		}
	}
	return append(out, r.surplus...)
}

// look finds the pods and the revisions of the set.
func (r *statefulRollout) look(ctx context.Context) error {
	pods, err := r.control.claimed(ctx, &r.owner)
	if err != nil {
		return err
	}
	r.slots = make([]*corev1.Pod, *r.set.Spec.Replicas)
	for _, p := range pods {
		switch n := ordinalOf(r.set, p); {
		case n < 0: // not one of those that it makes
		case r.wants(n):
			r.slots[n-r.start()] = p
		default:
			r.surplus = append(r.surplus, p)
		}
	}
	slices.SortFunc(r.surplus, func(a, b *corev1.Pod) int { return cmp.Compare(ordinalOf(r.set, b), ordinalOf(r.set, a)) })
	r.collisions = ptr.Deref(r.set.Status.CollisionCount, 0)
	if r.latest, r.revisions, err = r.history.latest(ctx, &r.owner, &r.set.Spec.Template, &r.collisions); err != nil {
		return err
	}
	r.current = r.latest
	for _, h := range r.revisions {
		if h.Name == r.set.Status.CurrentRevision {
			r.current = h
		}
	}
	return nil
}

// used says whether a revision is in use.
func (r *statefulRollout) used(h *appsv1.ControllerRevision) bool {
	return h.Name == r.latest.Name || h.Name == r.current.Name || h.Name == r.set.Status.CurrentRevision ||
		slices.ContainsFunc(r.all(), func(p *corev1.Pod) bool { return revisionLabel(p) == h.Name })
}

// revisionFor is what a new pod with a number is made from.
func (r *statefulRollout) revisionFor(ordinal int) *appsv1.ControllerRevision {
	u := r.set.Spec.UpdateStrategy
	switch {
	case u.Type != appsv1.RollingUpdateStatefulSetStrategyType:
	case u.RollingUpdate == nil && ordinal < r.start()+int(r.set.Status.CurrentReplicas):
		return r.current
	case u.RollingUpdate != nil && ordinal < r.start()+r.partition():
		return r.current
	}
	return r.latest
}

func (r *statefulRollout) partition() int {
	if ru := r.set.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
		return int(*ru.Partition)
	}
	return 0
}

// ordered says whether one pod waits for another.
func (r *statefulRollout) ordered() bool {
	return r.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

// healthy says whether a pod serves, and has done so for long enough.
func (r *statefulRollout) healthy(p *corev1.Pod) bool {
	return p != nil && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && isAvailable(p, r.set.Spec.MinReadySeconds, r.clock.Now())
}

// errWait says that the next step has to wait for pods.
var errWait = errors.New("waiting")

// proceed takes the next steps: first those that are missing, then those that are too many, then those that are out of date.
func (r *statefulRollout) proceed(ctx context.Context) error {
	for _, step := range []func(context.Context) error{r.fill, r.shrink, r.update} {
		switch err := step(ctx); {
		case errors.Is(err, errWait):
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// fill sees to every slot.
func (r *statefulRollout) fill(ctx context.Context) error {
	var errs error
	for i := range r.slots {
		switch err := r.fillSlot(ctx, i); {
		case err == nil:
		case r.ordered():
			return err
		case !errors.Is(err, errWait):
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// fillSlot brings the pod of a slot up. It is errWait if the next slot has to wait.
func (r *statefulRollout) fillSlot(ctx context.Context, i int) error {
	ordinal, p := r.start()+i, r.slots[i]
	if p == nil {
		n, err := r.newPod(ordinal, r.revisionFor(ordinal))
		if err != nil {
			return err
		}
		if err := r.ensureClaims(ctx, ordinal, n); err != nil {
			return err
		}
		switch err := r.control.create(ctx, &r.owner, n); {
		case err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return err
		}
		return errWait
	}
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		if p.DeletionTimestamp == nil {
			reason := "RecreatingFailedPod"
			if p.Status.Phase == corev1.PodSucceeded {
				reason = "RecreatingTerminatedPod"
			}
			r.control.events.Eventf(r.set, corev1.EventTypeWarning, reason, "StatefulSet %s is recreating terminated Pod %s", keyOf(r.set), p.Name)
			if err := r.drop(ctx, p); err != nil {
				return err
			}
		}
		return errWait
	}
	if p.DeletionTimestamp == nil {
		if err := r.ensureClaims(ctx, ordinal, p); err != nil {
			return err
		}
		if err := r.ensureIdentity(ctx, p, ordinal); err != nil {
			return err
		}
	}
	if r.healthy(p) {
		return nil
	}
	if r.ordered() && p.DeletionTimestamp == nil && r.outdated(i) { // it may never become healthy: the new revision may mend it
		if err := r.drop(ctx, p); err != nil {
			return err
		}
	}
	return errWait
}

// outdated says whether the pod of a slot is to be replaced by one of the latest revision.
func (r *statefulRollout) outdated(i int) bool {
	return r.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType && i >= r.partition() && revisionLabel(r.slots[i]) != r.latest.Name
}

// ensureIdentity writes back the labels of a pod that somebody took.
func (r *statefulRollout) ensureIdentity(ctx context.Context, p *corev1.Pod, ordinal int) error {
	c := p.DeepCopy()
	if !r.identify(c, ordinal) {
		return nil
	}
	_, err := r.client.CoreV1().Pods(c.Namespace).Update(ctx, c, metav1.UpdateOptions{})
	return err
}

// drop deletes a pod.
func (r *statefulRollout) drop(ctx context.Context, p *corev1.Pod) error {
	if err := r.control.delete(ctx, &r.owner, p); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return err
	}
	return nil
}

// shrink deletes pods that are too many: one after the other, the highest first, and none while a lower one is not healthy;
// or all at once.
func (r *statefulRollout) shrink(ctx context.Context) error {
	first := r.firstUnhealthy()
	for _, p := range r.surplus {
		if err := r.ensureSurplusClaims(ctx, p); err != nil {
			return err
		}
	}
	for _, p := range r.surplus {
		switch {
		case p.DeletionTimestamp != nil && r.ordered():
			return errWait
		case p.DeletionTimestamp != nil:
			continue
		case r.ordered() && !r.healthy(p) && p != first:
			return errWait
		}
		if err := r.drop(ctx, p); err != nil {
			return err
		}
		if r.ordered() {
			return errWait
		}
	}
	return nil
}

// ensureSurplusClaims hands claims that go when a set is scaled down to the pods that are going.
func (r *statefulRollout) ensureSurplusClaims(ctx context.Context, p *corev1.Pod) error {
	for _, t := range r.set.Spec.VolumeClaimTemplates {
		x, exists, err := r.claims.GetByKey(r.set.Namespace + "/" + claimName(r.set, t.Name, ordinalOf(r.set, p)))
		if err != nil {
			return err
		}
		if c, ok := x.(*corev1.PersistentVolumeClaim); exists && ok && c.DeletionTimestamp == nil {
			if err := r.ownClaim(ctx, c, ordinalOf(r.set, p), p); err != nil {
				return err
			}
		}
	}
	return nil
}

// firstUnhealthy is the pod with the lowest number that is not healthy; nil: all are.
func (r *statefulRollout) firstUnhealthy() (first *corev1.Pod) {
	for _, p := range r.all() {
		if !r.healthy(p) && (first == nil || ordinalOf(r.set, p) < ordinalOf(r.set, first)) {
			first = p
		}
	}
	return first
}

// update replaces pods of older revisions, the highest number first, and no more at a time than may be unavailable.
func (r *statefulRollout) update(ctx context.Context) error {
	u := r.set.Spec.UpdateStrategy
	if u.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	room := r.maxUnavailable()
	for _, p := range r.slots {
		if !r.healthy(p) {
			room--
		}
	}
	for i := len(r.slots) - 1; i >= r.partition() && i >= 0; i-- {
		p := r.slots[i]
		if p == nil || p.DeletionTimestamp != nil {
			continue
		}
		old := revisionLabel(p) != r.latest.Name
		switch {
		case old && !r.healthy(p): // it is missed already
			if err := r.drop(ctx, p); err != nil {
				return err
			}
		case old && room > 0:
			room--
			if err := r.drop(ctx, p); err != nil {
				return err
			}
		case old:
			return nil
		}
	}
	return nil
}

func (r *statefulRollout) maxUnavailable() int {
	ru := r.set.Spec.UpdateStrategy.RollingUpdate
	if ru == nil || ru.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, len(r.slots), true)
	if err != nil {
		return 1
	}
	return max(n, 1)
}
