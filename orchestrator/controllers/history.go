package controllers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// history keeps the versions of an owner's pod template as ControllerRevisions, which it owns. kubectl reads and rolls back
// to them: their data is a strategic merge patch of the owner.
type history struct {
	client    kubernetes.Interface
	revisions cache.Indexer
}

// templatePatch is the data of a revision.
type templatePatch struct {
	Spec struct {
		Template map[string]any `json:"template"`
	} `json:"spec"`
}

func templateData(t *corev1.PodTemplateSpec) ([]byte, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(t)
	if err != nil {
		return nil, err
	}
	m["$patch"] = "replace"
	var p templatePatch
	p.Spec.Template = m
	return json.Marshal(p)
}

// templateOf is the template that a revision has kept.
func templateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var p templatePatch
	if err := json.Unmarshal(r.Data.Raw, &p); err != nil {
		return nil, fmt.Errorf("revision %s: %w", keyOf(r), err)
	}
	delete(p.Spec.Template, "$patch")
	t := &corev1.PodTemplateSpec{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(p.Spec.Template, t); err != nil {
		return nil, fmt.Errorf("revision %s: %w", keyOf(r), err)
	}
	return t, nil
}

// sameData compares revisions' data; servers may write the same object in another order.
func sameData(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

// claimed returns the revisions of an owner, the oldest first. It adopts orphans that the owner selects.
func (h *history) claimed(ctx context.Context, o *owner) (out []*appsv1.ControllerRevision, err error) {
	all, err := h.revisions.ByIndex(cache.NamespaceIndex, o.meta.GetNamespace())
	if err != nil {
		return nil, err
	}
	checked := false
	for _, x := range all {
		r := x.(*appsv1.ControllerRevision)
		ref := metav1.GetControllerOf(r)
		switch {
		case ref != nil && ref.UID == o.meta.GetUID():
			out = append(out, r)
		case ref == nil && r.DeletionTimestamp == nil && o.meta.GetDeletionTimestamp() == nil && o.selector.Matches(labels.Set(r.Labels)):
			if !checked {
				if err := stillThere(ctx, o); err != nil {
					return nil, err
				}
				checked = true
			}
			b, merr := json.Marshal(ownerPatch{ownerPatchMeta{UID: r.UID, OwnerReferences: []any{o.reference()}}})
			if merr != nil {
				return nil, merr
			}
			adopted, perr := h.client.AppsV1().ControllerRevisions(r.Namespace).Patch(ctx, r.Name, types.StrategicMergePatchType, b, metav1.PatchOptions{})
			if perr != nil {
				err = errors.Join(err, ignoreGone(perr))
				continue
			}
			out = append(out, adopted)
		}
	}
	slices.SortFunc(out, func(a, b *appsv1.ControllerRevision) int {
		if a.Revision != b.Revision {
			return int(a.Revision - b.Revision)
		}
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return bytes.Compare([]byte(a.Name), []byte(b.Name))
	})
	return out, err
}

// latest returns the revision of a template: the newest there is, which is one that was rolled back to, or a new one; and the
// owner's revisions in order, of which it is the last one. collisions counts names that were taken by something else, and
// grows when it meets another.
func (h *history) latest(ctx context.Context, o *owner, t *corev1.PodTemplateSpec, collisions *int32) (*appsv1.ControllerRevision, []*appsv1.ControllerRevision, error) {
	all, err := h.claimed(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	data, err := templateData(t)
	if err != nil {
		return nil, nil, err
	}
	next := int64(1)
	if n := len(all); n > 0 {
		next = all[n-1].Revision + 1
	}
	at := -1
	for i, r := range all {
		if sameData(r.Data.Raw, data) {
			at = i
		}
	}
	switch {
	case at >= 0 && at == len(all)-1:
		return all[at], all, nil
	case at >= 0:
		r := all[at].DeepCopy()
		r.Revision = next
		r, err := h.client.AppsV1().ControllerRevisions(r.Namespace).Update(ctx, r, metav1.UpdateOptions{})
		if err != nil {
			return nil, nil, err
		}
		return r, append(slices.Delete(slices.Clone(all), at, at+1), r), nil
	}
	r, err := h.create(ctx, o, t, data, next, collisions)
	if err != nil {
		return nil, nil, err
	}
	return r, append(slices.Clone(all), r), nil
}

func (h *history) create(ctx context.Context, o *owner, t *corev1.PodTemplateSpec, data []byte, number int64, collisions *int32) (*appsv1.ControllerRevision, error) {
	for {
		hash, err := templateHash(t, collisions)
		if err != nil {
			return nil, err
		}
		tags := copyMap(t.Labels)
		if tags == nil {
			tags = map[string]string{}
		}
		tags[appsv1.ControllerRevisionHashLabelKey] = hash
		r := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: o.meta.GetNamespace(), Name: revisionName(o.meta.GetName(), hash), Labels: tags, Annotations: copyMap(o.meta.GetAnnotations()),
				OwnerReferences: []metav1.OwnerReference{*o.reference()},
			},
			Data: runtime.RawExtension{Raw: data}, Revision: number,
		}
		made, err := h.client.AppsV1().ControllerRevisions(r.Namespace).Create(ctx, r, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return made, err
		}
		there, gerr := h.client.AppsV1().ControllerRevisions(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
		if gerr != nil {
			return nil, gerr
		}
		if ref := metav1.GetControllerOf(there); ref != nil && ref.UID == o.meta.GetUID() && sameData(there.Data.Raw, data) {
			return there, nil // the informer has not seen it yet
		}
		*collisions++
	}
}

// revisionName is the name of a revision; long owners' names are cut.
func revisionName(owner, hash string) string {
	const longest = 223
	if len(owner) > longest {
		owner = owner[:longest]
	}
	return owner + "-" + hash
}

// truncate deletes the oldest revisions that nobody uses, until there are no more than limit of these.
func (h *history) truncate(ctx context.Context, all []*appsv1.ControllerRevision, used func(*appsv1.ControllerRevision) bool, limit int32) error {
	var idle []*appsv1.ControllerRevision
	for _, r := range all {
		if !used(r) {
			idle = append(idle, r)
		}
	}
	for i := 0; i < len(idle)-int(limit); i++ {
		if err := h.client.AppsV1().ControllerRevisions(idle[i].Namespace).Delete(ctx, idle[i].Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
