package storage

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// Match is a claim with the volume that was chosen for it.
type Match struct {
	Claim  *v1.PersistentVolumeClaim
	Volume *v1.PersistentVolume
}

// Decision is what is to be done for the claims of a pod whose node is chosen.
type Decision struct {
	// Matches are claims that get volumes which are there.
	Matches []Match
	// Provision are claims for which volumes are made on the node.
	Provision []*v1.PersistentVolumeClaim
}

// Empty tells whether there is nothing to do.
func (d *Decision) Empty() bool { return len(d.Matches)+len(d.Provision) == 0 }

// hold is something that one or more pods have decided alike.
type hold[T any] struct {
	what T
	pods map[types.UID]struct{}
}

// held are decisions that the API server does not show yet.
type held struct {
	volumes map[string]*hold[Key]
	claims  map[Key]*hold[string]
}

func newHeld() held {
	return held{volumes: map[string]*hold[Key]{}, claims: map[Key]*hold[string]{}}
}

// Hold keeps what was decided for a pod.
func (t *Table) Hold(pod types.UID, node string, d *Decision) {
	for _, m := range d.Matches {
		if v := t.volumes[m.Volume.Name]; v != nil && v.Spec.ClaimRef == nil {
			keep(t.held.volumes, v.Name, KeyOf(m.Claim), pod)
		}
	}
	for _, c := range d.Provision {
		if has := t.claims[KeyOf(c)]; has != nil && has.Annotations[volumehelpers.AnnSelectedNode] != node {
			keep(t.held.claims, KeyOf(c), node, pod)
		}
	}
}

func keep[K, T comparable](m map[K]*hold[T], k K, what T, pod types.UID) {
	h := m[k]
	if h == nil || h.what != what {
		h = &hold[T]{what: what, pods: map[types.UID]struct{}{}}
		m[k] = h
	}
	h.pods[pod] = struct{}{}
}

// Release forgets what was decided for a pod.
func (t *Table) Release(pod types.UID) {
	release(t.held.volumes, pod)
	release(t.held.claims, pod)
}

func release[K comparable, T any](m map[K]*hold[T], pod types.UID) {
	for k, h := range m {
		if delete(h.pods, pod); len(h.pods) == 0 {
			delete(m, k)
		}
	}
}

// Held is the number of volumes and claims that decisions are held about.
func (t *Table) Held() int { return len(t.held.volumes) + len(t.held.claims) }

func (h *held) nodeOf(k Key) (string, bool) {
	if c := h.claims[k]; c != nil {
		return c.what, true
	}
	return "", false
}

func (h *held) claimOf(volume string) (Key, bool) {
	if v := h.volumes[volume]; v != nil {
		return v.what, true
	}
	return Key{}, false
}

// sawClaim forgets what a claim now says itself: it has a volume, or a selected node. It is nil if it is gone.
func (h *held) sawClaim(k Key, c *v1.PersistentVolumeClaim) {
	if c == nil || c.Spec.VolumeName != "" || c.Annotations[volumehelpers.AnnSelectedNode] != "" {
		delete(h.claims, k)
	}
}

// sawVolume forgets what a volume now says itself: whose it is.
func (h *held) sawVolume(name string, v *v1.PersistentVolume) {
	if v == nil || v.Spec.ClaimRef != nil {
		delete(h.volumes, name)
	}
}
