package workers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	if err := writeJSON(a.path(p.UID), r); err != nil {
		return fmt.Errorf("workers: resources of a pod: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods[p.UID] = r
	return nil
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
