package plugins

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	volumehelpers "k8s.io/component-helpers/storage/volume"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

// Volumes tells the API server what was decided about volumes.
type Volumes interface {
	// Promise reserves a volume for a claim, and returns both as they are then. It fails if the volume is another's.
	Promise(ctx context.Context, volume string, c *v1.PersistentVolumeClaim) (*v1.PersistentVolume, *v1.PersistentVolumeClaim, error)
	// Select says on which node the volume of a claim is to be made, and returns the claim as it is then. A claim that has a
	// volume, or for which another node was selected, is left as it is.
	Select(ctx context.Context, c *v1.PersistentVolumeClaim, node string) (*v1.PersistentVolumeClaim, error)
	// Volume reads a volume.
	Volume(ctx context.Context, name string) (*v1.PersistentVolume, error)
}

// PreBind tells the API server what was decided, and waits until all claims are bound.
func (p *volumeBinding) PreBind(ctx context.Context, state *framework.CycleState, _ *v1.Pod, _ string) *framework.Status {
	s := framework.Data[*podClaims](state, volumeBindingKey)
	if s == nil || s.decision == nil || s.decision.Empty() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	w := s.table.Watch(s.decision)
	defer w.Close()
	b := &volumesBound{
		volumes: p.volumes, watch: w, node: s.node, decision: s.decision,
		promised: map[string]*v1.PersistentVolume{}, claims: map[storage.Key]*v1.PersistentVolumeClaim{},
	}
	if err := b.write(ctx); err != nil {
		return framework.AsStatus(fmt.Errorf("binding volumes: %w", err))
	}
	for {
		done, err := b.check(ctx)
		switch {
		case err != nil:
			return framework.AsStatus(fmt.Errorf("binding volumes: %w", err))
		case done:
			return nil
		}
		select {
		case <-w.News():
		case <-ctx.Done():
			return framework.AsStatus(fmt.Errorf("binding volumes: %w", ctx.Err()))
		}
	}
}

// volumesBound carries out a decision.
type volumesBound struct {
	volumes  Volumes
	watch    *storage.Watch
	node     *v1.Node
	decision *storage.Decision
	// What follows is as it was when the decision was written.
	promised map[string]*v1.PersistentVolume
	claims   map[storage.Key]*v1.PersistentVolumeClaim
}

// write can be done again after any of its steps.
func (b *volumesBound) write(ctx context.Context) error {
	for _, m := range b.decision.Matches {
		v, c, err := b.volumes.Promise(ctx, m.Volume.Name, m.Claim)
		if err != nil {
			return err
		}
		b.promised[v.Name], b.claims[storage.KeyOf(c)] = v, c
	}
	for _, c := range b.decision.Provision {
		now, err := b.volumes.Select(ctx, c, b.node.Name)
		if err != nil {
			return err
		}
		b.claims[storage.KeyOf(c)] = now
	}
	return nil
}

// check tells whether all claims are bound. An error says that they will not be, as things are.
func (b *volumesBound) check(ctx context.Context) (bool, error) {
	all := true
	for _, m := range b.decision.Matches {
		done, err := b.checkMatch(m)
		if err != nil {
			return false, err
		}
		all = all && done
	}
	for _, c := range b.decision.Provision {
		done, err := b.checkMade(ctx, c)
		if err != nil {
			return false, err
		}
		all = all && done
	}
	return all, nil
}

// checkMatch tells whether a claim has the volume that was chosen for it.
func (b *volumesBound) checkMatch(m storage.Match) (bool, error) {
	v := b.promised[m.Volume.Name]
	if last, seen := b.watch.Volume(v.Name); seen {
		if last == nil {
			return false, fmt.Errorf("failed to check binding: persistentvolume %q not found", v.Name)
		}
		v = newer(v, last)
	}
	if !volumehelpers.IsVolumeBoundToClaim(v, m.Claim) {
		return false, fmt.Errorf("ClaimRef got reset for pv %q", v.Name)
	}
	c, err := b.claim(m.Claim)
	if err != nil || !isBound(c) {
		return false, err
	}
	if c.Spec.VolumeName != v.Name {
		return false, fmt.Errorf("persistentvolumeclaim %q was bound to pv %q instead of %q", c.Name, c.Spec.VolumeName, v.Name)
	}
	return true, nil
}

// checkMade tells whether a claim has the volume that was made for it.
func (b *volumesBound) checkMade(ctx context.Context, was *v1.PersistentVolumeClaim) (bool, error) {
	c, err := b.claim(was)
	if err != nil {
		return false, err
	}
	if c.Annotations[volumehelpers.AnnSelectedNode] != b.node.Name {
		return false, fmt.Errorf("provisioning failed for PVC %q", c.Name)
	}
	if !isBound(c) {
		return false, nil
	}
	v, err := b.volumes.Volume(ctx, c.Spec.VolumeName)
	if err != nil {
		return false, fmt.Errorf("failed to get pv %q: %w", c.Spec.VolumeName, err)
	}
	if err := volumehelpers.CheckNodeAffinity(v, b.node.Labels); err != nil {
		return false, fmt.Errorf("pv %q node affinity doesn't match node %q: %w", v.Name, b.node.Name, err)
	}
	return true, nil
}

// claim is a claim as it is now.
func (b *volumesBound) claim(was *v1.PersistentVolumeClaim) (*v1.PersistentVolumeClaim, error) {
	c := b.claims[storage.KeyOf(was)]
	if last, seen := b.watch.Claim(storage.KeyOf(was)); seen {
		if last == nil {
			return nil, fmt.Errorf("failed to check binding: persistentvolumeclaim %q not found", was.Name)
		}
		c = newer(c, last)
	}
	if c.UID != was.UID {
		return nil, fmt.Errorf("failed to check binding: persistentvolumeclaim %q was replaced", was.Name)
	}
	return c, nil
}

// newer is b unless a is known to be newer.
func newer[T metav1.Object](a, b T) T {
	if order, err := resourceversion.CompareResourceVersion(a.GetResourceVersion(), b.GetResourceVersion()); err == nil && order > 0 {
		return a
	}
	return b
}
