package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func revisionLabel(p *corev1.Pod) string { return p.Labels[appsv1.ControllerRevisionHashLabelKey] }

// ordinalOf is the number in a pod's name; -1: it has none.
func ordinalOf(set *appsv1.StatefulSet, p *corev1.Pod) int {
	rest, ok := strings.CutPrefix(p.Name, set.Name+"-")
	if !ok {
		return -1
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < 0 || strconv.Itoa(n) != rest {
		return -1
	}
	return n
}

// claimName is the name of the claim that a pod has of a template.
func claimName(set *appsv1.StatefulSet, template string, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", template, set.Name, ordinal)
}

// newPod is the pod with a number, of a revision's template.
func (r *statefulRollout) newPod(ordinal int, rev *appsv1.ControllerRevision) (*corev1.Pod, error) {
	t := &r.set.Spec.Template
	if rev.Name != r.latest.Name {
		old, err := templateOf(rev)
		if err != nil {
			return nil, err
		}
		t = old
	}
	p := podFrom(&r.owner, t)
	p.GenerateName, p.Name = "", fmt.Sprintf("%s-%d", r.set.Name, ordinal)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = rev.Name
	r.identify(p, ordinal)
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, r.set.Spec.ServiceName
	return p, nil
}

// identify gives a pod its labels and its claims, and says whether anything was wrong.
func (r *statefulRollout) identify(p *corev1.Pod, ordinal int) (changed bool) {
	for k, v := range map[string]string{appsv1.StatefulSetPodNameLabel: p.Name, appsv1.PodIndexLabel: strconv.Itoa(ordinal)} {
		if p.Labels[k] != v {
			if p.Labels == nil {
				p.Labels = map[string]string{}
			}
			p.Labels[k], changed = v, true
		}
	}
	for _, t := range r.set.Spec.VolumeClaimTemplates {
		name := claimName(r.set, t.Name, ordinal)
		v := corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
		i := slices.IndexFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == t.Name })
		switch {
		case i < 0:
			p.Spec.Volumes, changed = append(p.Spec.Volumes, v), true
		case p.Spec.Volumes[i].PersistentVolumeClaim == nil || p.Spec.Volumes[i].PersistentVolumeClaim.ClaimName != name:
			p.Spec.Volumes[i], changed = v, true
		}
	}
	return changed
}

// ensureClaims makes the claims of a pod that are not there, and keeps their owners as the set's policy wants.
func (r *statefulRollout) ensureClaims(ctx context.Context, ordinal int, p *corev1.Pod) error {
	for i := range r.set.Spec.VolumeClaimTemplates {
		t := &r.set.Spec.VolumeClaimTemplates[i]
		name := claimName(r.set, t.Name, ordinal)
		x, exists, err := r.claims.GetByKey(r.set.Namespace + "/" + name)
		if err != nil {
			return err
		}
		if exists {
			c := x.(*corev1.PersistentVolumeClaim)
			if c.DeletionTimestamp != nil {
				return fmt.Errorf("pvc %s is being deleted", c.Name)
			}
			if err := r.ownClaim(ctx, c, ordinal, p); err != nil {
				return err
			}
			continue
		}
		c := t.DeepCopy()
		c.Name, c.Namespace = name, r.set.Namespace
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		for k, v := range r.set.Spec.Selector.MatchLabels {
			c.Labels[k] = v
		}
		c.OwnerReferences = r.claimOwners(ordinal, p)
		if _, err := r.client.CoreV1().PersistentVolumeClaims(c.Namespace).Create(ctx, c, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			r.control.events.Eventf(r.set, corev1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s-%d in StatefulSet %s failed error: %v", name, r.set.Name, ordinal, r.set.Name, err)
			return err
		} else if err == nil {
			r.control.events.Eventf(r.set, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s-%d in StatefulSet %s success", name, r.set.Name, ordinal, r.set.Name)
		}
	}
	return nil
}

// claimOwners is what a claim goes with: the set, if claims are deleted with it; the pod, if claims are deleted when the set
// is scaled down and the pod is one too many.
func (r *statefulRollout) claimOwners(ordinal int, p *corev1.Pod) (refs []metav1.OwnerReference) {
	policy := r.set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil {
		return nil
	}
	ref := r.owner.reference()
	if policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && !r.wants(ordinal) && p != nil && p.UID != "" {
		return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}}
	}
	if policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		refs = append(refs, *ref)
	}
	return refs
}

// ownClaim brings the owners of a claim in line with the policy. Owners of other kinds are left alone.
func (r *statefulRollout) ownClaim(ctx context.Context, c *corev1.PersistentVolumeClaim, ordinal int, p *corev1.Pod) error {
	want := r.claimOwners(ordinal, p)
	podName := fmt.Sprintf("%s-%d", r.set.Name, ordinal)
	var refs []metav1.OwnerReference
	for _, ref := range c.OwnerReferences {
		if ref.UID != r.set.UID && (ref.Kind != "Pod" || ref.Name != podName) {
			refs = append(refs, ref)
		}
	}
	refs = append(refs, want...)
	if slices.EqualFunc(refs, c.OwnerReferences, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID }) {
		return nil
	}
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": c.UID, "resourceVersion": c.ResourceVersion, "ownerReferences": refs}})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().PersistentVolumeClaims(c.Namespace).Patch(ctx, c.Name, types.MergePatchType, b, metav1.PatchOptions{})
	return err
}
