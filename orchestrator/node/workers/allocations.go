package workers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// allocations are the resources that pods were granted when they were admitted or resized. A spec that asks for more does not
// count until the node has agreed. They are recorded in the pods' directories.
type allocations struct {
	dir string

	mu   sync.Mutex
	pods map[types.UID]allocation
}

// allocation is what one pod was granted.
type allocation struct {
	Containers map[string]corev1.ResourceRequirements `json:"containers"`
	Pod        *corev1.ResourceRequirements           `json:"pod,omitempty"`
	// InEffect is what the newest container of a name runs with.
	InEffect map[string]corev1.ResourceRequirements `json:"inEffect,omitempty"`
}

func newAllocations(dir string) *allocations {
	return &allocations{dir: dir, pods: map[types.UID]allocation{}}
}

func (a *allocations) path(uid types.UID) string {
	return filepath.Join(a.dir, string(uid), "allocation.json")
}

// recover takes up what earlier runs granted.
func (a *allocations) recover() error {
	files, err := filepath.Glob(a.path("*"))
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("workers: resources of a pod: %w", err)
		}
		var r allocation
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("workers: resources of a pod: %s: %w", f, err)
		}
		a.pods[types.UID(filepath.Base(filepath.Dir(f)))] = r
	}
	return nil
}

func allocationOf(p *corev1.Pod) allocation {
	r := allocation{Containers: map[string]corev1.ResourceRequirements{}, Pod: p.Spec.Resources.DeepCopy()}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			r.Containers[list[i].Name] = *list[i].Resources.DeepCopy()
		}
	}
	return r
}

// set grants a pod what it asks for.
func (a *allocations) set(p *corev1.Pod) error {
	r := allocationOf(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	r.InEffect = a.pods[p.UID].InEffect
	return a.record(p.UID, r)
}

// record writes what a pod has been granted. The caller holds mu.
func (a *allocations) record(uid types.UID, r allocation) error {
	if err := writeJSON(a.path(uid), r); err != nil {
		return fmt.Errorf("workers: resources of a pod: %w", err)
	}
	a.pods[uid] = r
	return nil
}

// applied notes what a container runs with.
func (a *allocations) applied(uid types.UID, name string, have corev1.ResourceRequirements) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.pods[uid]
	if !ok {
		return nil
	}
	if old, ok := r.InEffect[name]; ok && equalResources(&old, &have) {
		return nil
	}
	r.InEffect = maps.Clone(r.InEffect)
	if r.InEffect == nil {
		r.InEffect = map[string]corev1.ResourceRequirements{}
	}
	r.InEffect[name] = *have.DeepCopy()
	return a.record(uid, r)
}

// inEffect is what a container runs with, if that is known.
func (a *allocations) inEffect(uid types.UID, name string) (corev1.ResourceRequirements, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.pods[uid].InEffect[name]
	return r, ok
}

func (a *allocations) has(uid types.UID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.pods[uid]
	return ok
}

func (a *allocations) free(uid types.UID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := os.Remove(a.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(a.pods, uid)
	return nil
}

// apply is the pod with the resources that it was granted in place of those that it asks for. The pod itself is not changed.
func (a *allocations) apply(p *corev1.Pod) *corev1.Pod {
	a.mu.Lock()
	r, ok := a.pods[p.UID]
	a.mu.Unlock()
	if !ok {
		return p
	}
	out := p.DeepCopy()
	out.Spec.Resources = r.Pod.DeepCopy()
	for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			if granted, ok := r.Containers[list[i].Name]; ok {
				list[i].Resources = *granted.DeepCopy()
			}
		}
	}
	return out
}
