package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// rollout is one look at a deployment. The deployment is a copy, the replica sets are shared until they are changed.
type rollout struct {
	*deploymentController
	dep    *appsv1.Deployment
	latest *appsv1.ReplicaSet   // of the deployment's template; nil: none yet
	old    []*appsv1.ReplicaSet // the others, the oldest first
	pods   map[types.UID][]*corev1.Pod
}

func (r *rollout) split(sets []*appsv1.ReplicaSet) {
	oldestFirst(sets)
	for _, rs := range sets {
		if r.latest == nil && sameTemplate(&rs.Spec.Template, &r.dep.Spec.Template) {
			r.latest = rs
		} else {
			r.old = append(r.old, rs)
		}
	}
}

func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.latest == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.latest)
}

// active are old replica sets that are to have pods.
func (r *rollout) active() (out []*appsv1.ReplicaSet) {
	for _, rs := range r.old {
		if wanted(rs) > 0 {
			out = append(out, rs)
		}
	}
	return out
}

// proceed takes the next step.
func (r *rollout) proceed(ctx context.Context) error {
	if err := r.notePaused(ctx); err != nil {
		return err
	}
	if r.dep.Spec.Paused || r.resized() {
		if err := r.ensureLatest(ctx, false); err != nil {
			return err
		}
		if err := r.resize(ctx); err != nil {
			return err
		}
		if r.dep.Spec.Paused {
			if err := r.cleanUp(ctx); err != nil {
				return err
			}
		}
		return r.updateStatus(ctx)
	}
	if r.dep.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.recreate(ctx)
	}
	return r.roll(ctx)
}

// resized says whether the wanted number of pods has changed since the replica sets were last given theirs.
func (r *rollout) resized() bool {
	for _, rs := range r.all() {
		if wanted(rs) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(rs.Annotations[desiredAnnotation], 10, 32); err == nil && int32(n) != *r.dep.Spec.Replicas {
			return true
		}
	}
	return false
}

// recreate removes all old pods before it makes new ones.
func (r *rollout) recreate(ctx context.Context) error {
	if err := r.ensureLatest(ctx, false); err != nil {
		return err
	}
	scaled := false
	for _, rs := range r.active() {
		did, err := r.scale(ctx, rs, 0)
		if err != nil {
			return err
		}
		scaled = scaled || did
	}
	if scaled || r.oldPodsRun() {
		return r.updateStatus(ctx)
	}
	if r.latest == nil {
		if err := r.ensureLatest(ctx, true); err != nil {
			return err
		}
	}
	if _, err := r.scale(ctx, r.latest, *r.dep.Spec.Replicas); err != nil {
		return err
	}
	return r.finish(ctx)
}

func (r *rollout) oldPodsRun() bool {
	for uid, pods := range r.pods {
		if r.latest != nil && uid == r.latest.UID {
			continue
		}
		for _, p := range pods {
			if p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
				return true
			}
		}
	}
	return false
}

// roll makes new pods and removes old ones, as many at a time as the strategy allows.
func (r *rollout) roll(ctx context.Context) error {
	if err := r.ensureLatest(ctx, true); err != nil {
		return err
	}
	switch did, err := r.scale(ctx, r.latest, r.grown()); {
	case err != nil:
		return err
	case did:
		return r.updateStatus(ctx)
	}
	switch did, err := r.shrinkOld(ctx); {
	case err != nil:
		return err
	case did:
		return r.updateStatus(ctx)
	}
	return r.finish(ctx)
}

func (r *rollout) finish(ctx context.Context) error {
	if complete(r.dep, &r.dep.Status) {
		if err := r.cleanUp(ctx); err != nil {
			return err
		}
	}
	return r.updateStatus(ctx)
}

// surge is how many pods there may be more than wanted, unavailable how many fewer may be available.
func (r *rollout) surge() int32       { s, _ := bounds(r.dep); return s }
func (r *rollout) unavailable() int32 { _, u := bounds(r.dep); return u }

// bounds are a deployment's maxSurge and maxUnavailable in pods. Not both are 0, or nothing could ever move.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	ru := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || ru == nil || *d.Spec.Replicas == 0 {
		return 0, 0
	}
	of := func(v *intstr.IntOrString, up bool) int32 {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), int(*d.Spec.Replicas), up)
		if err != nil {
			return 0
		}
		return int32(n)
	}
	surge, unavailable = of(ru.MaxSurge, true), of(ru.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, *d.Spec.Replicas)
}

// grown is how many pods the latest replica set is to have now.
func (r *rollout) grown() int32 {
	want, have := *r.dep.Spec.Replicas, wanted(r.latest)
	if have >= want {
		return want
	}
	total := int32(0)
	for _, rs := range r.all() {
		total += max(wanted(rs), rs.Status.Replicas) // those that are to go are still there
	}
	return have + max(0, min(want+r.surge()-total, want-have))
}

// shrinkOld takes pods from old replica sets: first those that are not available, then as many as may be missed.
func (r *rollout) shrinkOld(ctx context.Context) (bool, error) {
	old := r.active()
	if len(old) == 0 {
		return false, nil
	}
	total, available := int32(0), int32(0)
	for _, rs := range r.all() {
		total += wanted(rs)
		available += min(rs.Status.AvailableReplicas, wanted(rs)) // what is to go no longer counts
	}
	least := *r.dep.Spec.Replicas - r.unavailable()
	room := total - least - (wanted(r.latest) - r.latest.Status.AvailableReplicas)
	if room <= 0 {
		return false, nil
	}
	taken := int32(0)
	for i, rs := range old {
		sick := wanted(rs) - rs.Status.AvailableReplicas
		n := min(room-taken, sick)
		if n <= 0 {
			continue
		}
		if err := r.take(ctx, old, i, n); err != nil {
			return false, err
		}
		taken += n
	}
	spare := available - least
	for i := range old {
		n := min(spare, room-taken, wanted(old[i]))
		if n <= 0 {
			continue
		}
		if err := r.take(ctx, old, i, n); err != nil {
			return false, err
		}
		spare, taken = spare-n, taken+n
	}
	return taken > 0, nil
}

func (r *rollout) take(ctx context.Context, sets []*appsv1.ReplicaSet, i int, n int32) error {
	changed, err := r.scaled(ctx, sets[i], wanted(sets[i])-n)
	if err == nil {
		sets[i] = changed
	}
	return err
}

// scale gives a replica set a number of pods and says whether that was a change.
func (r *rollout) scale(ctx context.Context, rs *appsv1.ReplicaSet, n int32) (bool, error) {
	if wanted(rs) == n {
		return false, nil
	}
	changed, err := r.scaled(ctx, rs, n)
	if err == nil && rs == r.latest {
		r.latest = changed
	}
	return true, err
}

func (r *rollout) scaled(ctx context.Context, rs *appsv1.ReplicaSet, n int32) (*appsv1.ReplicaSet, error) {
	was := wanted(rs)
	c := rs.DeepCopy()
	c.Spec.Replicas = ptr.To(n)
	r.annotateSize(c)
	changed, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, c, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	if was != n {
		way := "up"
		if n < was {
			way = "down"
		}
		r.events.Eventf(r.dep, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", way, rs.Name, was, n)
	}
	return changed, nil
}

// annotateSize notes on a replica set what its deployment wanted when its number was set, and says whether that is news.
func (r *rollout) annotateSize(rs *appsv1.ReplicaSet) bool {
	want := *r.dep.Spec.Replicas
	a := annotate(rs, desiredAnnotation, strconv.Itoa(int(want)))
	b := annotate(rs, maxAnnotation, strconv.Itoa(int(want+r.surge())))
	return a || b
}

func annotate(rs *appsv1.ReplicaSet, key, value string) bool {
	if rs.Annotations[key] == value {
		return false
	}
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[key] = value
	return true
}

// ensureLatest brings the latest replica set's revision and annotations up to date, and makes the set if it is to be there.
func (r *rollout) ensureLatest(ctx context.Context, make bool) error {
	highest := int64(0)
	for _, rs := range r.old {
		highest = max(highest, revisionOf(rs))
	}
	revision := strconv.FormatInt(highest+1, 10)
	switch {
	case r.latest != nil:
		c := r.latest.DeepCopy()
		changed := r.inherit(c, revision, true)
		if c.Spec.MinReadySeconds != r.dep.Spec.MinReadySeconds {
			c.Spec.MinReadySeconds, changed = r.dep.Spec.MinReadySeconds, true
		}
		if changed {
			updated, err := r.client.AppsV1().ReplicaSets(c.Namespace).Update(ctx, c, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			r.latest = updated
		}
		return r.noteLatest(ctx, "FoundNewReplicaSet", "Found new replica set %q")
	case !make:
		return nil
	}
	return r.makeLatest(ctx, revision)
}

// notInherited are annotations of a deployment that its replica sets do not get.
var notInherited = []string{
	corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation, appsv1.DeprecatedRollbackTo,
}

// inherit gives a replica set its deployment's annotations and a revision that is higher than any other. A revision that it
// had before is remembered. It says whether anything changed.
func (r *rollout) inherit(rs *appsv1.ReplicaSet, revision string, exists bool) bool {
	changed := false
	for k, v := range r.dep.Annotations {
		if !slices.Contains(notInherited, k) {
			changed = annotate(rs, k, v) || changed
		}
	}
	was := rs.Annotations[revisionAnnotation]
	n, _ := strconv.ParseInt(revision, 10, 64)
	if revisionOf(rs) < n {
		annotate(rs, revisionAnnotation, revision)
		changed = true
		if exists && was != "" {
			history := rs.Annotations[historyAnnotation]
			if history != "" {
				history += ","
			}
			annotate(rs, historyAnnotation, history+was)
		}
	}
	if !exists {
		changed = r.annotateSize(rs) || changed
	}
	return changed
}

// errTerminating ends a rollout whose namespace is being deleted: there is nothing left to do.
var errTerminating = errors.New("the namespace is being deleted")

func (r *rollout) makeLatest(ctx context.Context, revision string) error {
	hash, err := templateHash(&r.dep.Spec.Template, r.dep.Status.CollisionCount)
	if err != nil {
		return err
	}
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.dep.Name + "-" + hash, Namespace: r.dep.Namespace, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.dep, deploymentKind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			MinReadySeconds: r.dep.Spec.MinReadySeconds, Selector: r.dep.Spec.Selector.DeepCopy(), Template: *r.dep.Spec.Template.DeepCopy(),
		},
	}
	label := func(m map[string]string) map[string]string {
		m = maps.Clone(m)
		if m == nil {
			m = map[string]string{}
		}
		m[appsv1.DefaultDeploymentUniqueLabelKey] = hash
		return m
	}
	rs.Spec.Template.Labels = label(rs.Spec.Template.Labels)
	rs.Labels = maps.Clone(rs.Spec.Template.Labels)
	rs.Spec.Selector.MatchLabels = label(rs.Spec.Selector.MatchLabels)
	r.inherit(rs, revision, false)
	rs.Spec.Replicas = ptr.To(r.firstSize())
	made, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return r.collided(ctx, rs)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return errTerminating
	case err != nil:
		msg := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		if r.dep.Spec.ProgressDeadlineSeconds != nil {
			setCondition(&r.dep.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", msg))
			_ = r.writeStatus(ctx) // the first error tells more
		}
		r.events.Event(r.dep, corev1.EventTypeWarning, "ReplicaSetCreateError", msg)
		return err
	}
	r.latest = made
	if n := wanted(made); n > 0 {
		r.events.Eventf(r.dep, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", made.Name, n)
	}
	return r.noteLatest(ctx, "NewReplicaSetCreated", "Created new replica set %q")
}

// firstSize is how many pods a new replica set begins with.
func (r *rollout) firstSize() int32 {
	if r.dep.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return *r.dep.Spec.Replicas
	}
	return r.grown()
}

// collided deals with a name that is taken: by a set of this deployment with this template, which the indexer did not have
// yet, or by another one, and then the next attempt takes another hash.
func (r *rollout) collided(ctx context.Context, rs *appsv1.ReplicaSet) error {
	there, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if ref := metav1.GetControllerOf(there); ref != nil && ref.UID == r.dep.UID && sameTemplate(&there.Spec.Template, &r.dep.Spec.Template) {
		r.latest = there
		return nil
	}
	r.dep.Status.CollisionCount = ptr.To(ptr.Deref(r.dep.Status.CollisionCount, 0) + 1)
	if err := r.writeStatus(ctx); err != nil {
		return err
	}
	return fmt.Errorf("the name %s is taken", rs.Name)
}

// noteLatest keeps the deployment's revision, and notes progress.
func (r *rollout) noteLatest(ctx context.Context, reason, message string) error {
	if rev := r.latest.Annotations[revisionAnnotation]; r.dep.Annotations[revisionAnnotation] != rev {
		d := r.dep.DeepCopy()
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[revisionAnnotation] = rev
		updated, err := r.client.AppsV1().Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		updated.Status = r.dep.Status
		r.dep = updated
	}
	if r.dep.Spec.ProgressDeadlineSeconds != nil && (reason == "NewReplicaSetCreated" || findCondition(&r.dep.Status, appsv1.DeploymentProgressing) == nil) {
		setCondition(&r.dep.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reason, fmt.Sprintf(message, r.latest.Name)))
		return r.writeStatus(ctx)
	}
	return nil
}

// cleanUp removes old replica sets beyond the deployment's history limit: those without pods, of the lowest revisions.
func (r *rollout) cleanUp(ctx context.Context) error {
	if r.dep.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	var idle []*appsv1.ReplicaSet
	for _, rs := range r.old {
		if rs.DeletionTimestamp == nil {
			idle = append(idle, rs)
		}
	}
	slices.SortStableFunc(idle, func(a, b *appsv1.ReplicaSet) int {
		if ra, rb := revisionOf(a), revisionOf(b); ra != rb {
			return int(ra - rb)
		}
		return strings.Compare(a.Name, b.Name)
	})
	for i := 0; i < len(idle)-int(*r.dep.Spec.RevisionHistoryLimit); i++ {
		rs := idle[i]
		if rs.Status.Replicas != 0 || wanted(rs) != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		if err := r.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
