package workers

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// idOf is the ID of a container in a status without the name of the runtime.
func idOf(id string) string {
	if _, bare, ok := strings.Cut(id, "://"); ok {
		return bare
	}
	return id
}

// shown is the pod with the status that is the latest. The caller holds mu.
func (w *worker) shown() *corev1.Pod {
	p := *w.spec.pod
	p.Status = w.base().Status
	if w.out.want != nil {
		p.Status = *w.out.want
	}
	return &p
}

// Pods are the pods of the node with their latest status. They must not be changed.
func (ws *Workers) Pods() (pods []*corev1.Pod) {
	for _, w := range ws.all() {
		w.mu.Lock()
		if !w.spec.removed {
			pods = append(pods, w.shown())
		}
		w.mu.Unlock()
	}
	return pods
}

// Pod is a pod by its UID, or by that of its mirror; nil if the node has none.
func (ws *Workers) Pod(uid types.UID) *corev1.Pod {
	for _, p := range ws.Pods() {
		if p.UID == uid || ws.uidOf(p) == uid {
			return p
		}
	}
	return nil
}

// PodByName is a pod by its name; of two that have it, the one that is not being deleted. Nil if there is none.
func (ws *Workers) PodByName(namespace, name string) (found *corev1.Pod) {
	for _, p := range ws.Pods() {
		if p.Namespace == namespace && p.Name == name && (found == nil || found.DeletionTimestamp != nil) {
			found = p
		}
	}
	return found
}

// ContainerRef is a container of a pod in the runtime.
type ContainerRef struct {
	ID      string // without the name of the runtime
	LogPath string
	Attempt int32
	Running bool
	Sandbox string // ID of its sandbox
}

// Container finds a container of a pod by names: the newest, or the one before it.
func (ws *Workers) Container(namespace, pod, name string, previous bool) (id, logPath string, err error) {
	p := ws.PodByName(namespace, pod)
	if p == nil {
		return "", "", fmt.Errorf("workers: pod %s/%s is not on this node", namespace, pod)
	}
	c, err := ws.Find(p.UID, name, previous)
	return c.ID, c.LogPath, err
}

// Find is the newest container of a name that a pod has, or the one before it.
func (ws *Workers) Find(uid types.UID, name string, previous bool) (ContainerRef, error) {
	ws.mu.Lock()
	w := ws.workers[uid]
	ws.mu.Unlock()
	if w == nil {
		return ContainerRef{}, fmt.Errorf("workers: pod %q is not on this node", uid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*container
	if w.memory.seen != nil {
		list = w.memory.seen.containers[name]
	}
	i := 0
	if previous {
		i = 1
	}
	if i >= len(list) {
		if previous {
			return ContainerRef{}, fmt.Errorf("previous terminated container %q in pod %q not found", name, w.spec.pod.Name)
		}
		return ContainerRef{}, fmt.Errorf("container %q in pod %q is waiting to start", name, w.spec.pod.Name)
	}
	c := list[i]
	return ContainerRef{ID: c.id, LogPath: c.status.LogPath, Attempt: c.attempt, Running: c.running(), Sandbox: c.sandbox}, nil
}

// ContainerID is the ID of a container that runs, without the name of the runtime; "" if none does.
func (ws *Workers) ContainerID(uid types.UID, name string) string {
	if c, err := ws.Find(uid, name, false); err == nil && c.Running {
		return c.ID
	}
	return ""
}

// Sandbox is the ID of a pod's sandbox, "" if it has none that is ready.
func (ws *Workers) Sandbox(uid types.UID) string {
	ws.mu.Lock()
	w := ws.workers[uid]
	ws.mu.Unlock()
	if w == nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.memory.seen == nil || w.memory.seen.sandbox() == nil {
		return ""
	}
	return w.memory.seen.sandbox().id
}

// RecursiveReadOnly is whether the runtime's handler that a pod runs with can make mounts read-only with all below them.
func (ws *Workers) RecursiveReadOnly(p *corev1.Pod) bool {
	node, handler := ws.cfg.Node(), ""
	ws.mu.Lock()
	w := ws.workers[p.UID]
	ws.mu.Unlock()
	if w != nil {
		w.mu.Lock()
		if w.memory.seen != nil && w.memory.seen.sandbox() != nil {
			handler = w.memory.seen.sandbox().handler
		}
		w.mu.Unlock()
	}
	if node == nil {
		return false
	}
	for _, h := range node.Status.RuntimeHandlers {
		if h.Name == handler {
			return h.Features != nil && ptr.Deref(h.Features.RecursiveReadOnlyMounts, false)
		}
	}
	return false
}

// lastIPs are the addresses that a pod had at the last sync.
func (ws *Workers) lastIPs(p *corev1.Pod) []string {
	ws.mu.Lock()
	w := ws.workers[p.UID]
	ws.mu.Unlock()
	if w == nil {
		return nil
	}
	w.mu.Lock()
	seen := w.memory.seen
	w.mu.Unlock()
	if seen == nil {
		return nil
	}
	return podIPs(p, seen.sandbox(), ws.cfg.hostIPs())
}
