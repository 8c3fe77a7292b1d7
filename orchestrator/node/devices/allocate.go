package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/keelson-io/keelson/orchestrator/node/workers"
)

// Allocate gives a pod the devices that its containers ask for: all, or none. What it has it keeps.
func (m *Manager) Allocate(ctx context.Context, pod *corev1.Pod) error {
	if len(m.wanted(pod)) == 0 {
		return nil
	}
	m.gate.Lock()
	defer m.gate.Unlock()
	m.mu.Lock()
	_, has := m.records[pod.UID]
	m.mu.Unlock()
	if has {
		return nil
	}
	m.forget()
	all := map[string]held{}
	hand := map[string][]string{} // what init containers hand on, by resource
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if err := m.allocate(ctx, c, all, hand, restarts(c)); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		if err := m.allocate(ctx, &pod.Spec.Containers[i], all, hand, true); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records[pod.UID] = all
	if err := m.save(); err != nil {
		delete(m.records, pod.UID)
		return err
	}
	return nil
}

// restarts is whether an init container runs as long as the pod.
func restarts(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// wanted are the resources of plugins that a pod asks for.
func (m *Manager) wanted(pod *corev1.Pod) (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for name := range c.Resources.Limits {
			if m.kinds[string(name)] != nil {
				out = append(out, string(name))
			}
		}
	}
	return out
}

// allocate gives a container its devices. One that runs to the end of the pod keeps what it takes of what is handed on; another one
// hands all on.
func (m *Manager) allocate(ctx context.Context, c *corev1.Container, all map[string]held, hand map[string][]string, keeps bool) error {
	for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
		q, r := c.Resources.Limits[name], string(name)
		m.mu.Lock()
		k := m.kinds[r]
		m.mu.Unlock()
		if k == nil || q.IsZero() {
			continue
		}
		g, err := m.grant(ctx, r, int(q.Value()), hand[r], all)
		if err != nil {
			return err
		}
		if all[c.Name] == nil {
			all[c.Name] = held{}
		}
		all[c.Name][r] = g
		if keeps {
			hand[r] = slices.DeleteFunc(slices.Clone(hand[r]), func(id string) bool { return slices.Contains(g.IDs, id) })
		} else {
			hand[r] = slices.Compact(slices.Sorted(slices.Values(slices.Concat(hand[r], g.IDs))))
		}
	}
	return nil
}

// grant chooses n devices, those that are handed on first, and has the plugin allocate them.
func (m *Manager) grant(ctx context.Context, r string, n int, handed []string, all map[string]held) (grant, error) {
	m.mu.Lock()
	p, free := m.kinds[r].plugin, m.free(r, all)
	m.mu.Unlock()
	must := handed[:min(len(handed), n)]
	if p == nil || len(must)+len(free) < n {
		return grant{}, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", r, n, len(must)+len(free))
	}
	ids := slices.Concat(must, free[:n-len(must)])
	if len(ids) > len(must) {
		liked, err := p.prefer(ctx, slices.Concat(must, free), must, n)
		if err != nil {
			return grant{}, err
		}
		if fits(liked, must, free, n) {
			ids = liked
		} else if liked != nil {
			m.cfg.Logger.Warn("a device plugin prefers what is not to be had", zap.String("resource", r), zap.Strings("devices", liked))
		}
	}
	slices.Sort(ids)
	resp, err := p.allocate(ctx, ids)
	if err != nil {
		return grant{}, err
	}
	raw, err := proto.Marshal(resp)
	if err != nil {
		return grant{}, fmt.Errorf("devices: %w", err)
	}
	return grant{IDs: ids, Response: raw}, nil
}

// fits is whether a choice is n different devices, of those that are free, with those that it has to have.
func fits(choice, must, free []string, n int) bool {
	seen := map[string]bool{}
	for _, id := range choice {
		if seen[id] || !slices.Contains(must, id) && !slices.Contains(free, id) {
			return false
		}
		seen[id] = true
	}
	return len(choice) == n && !slices.ContainsFunc(must, func(id string) bool { return !seen[id] })
}

// free are the healthy devices that no pod has, nor the one that is being allocated, sorted. The caller holds mu.
func (m *Manager) free(r string, mine map[string]held) (out []string) {
	taken := map[string]bool{}
	take := func(of map[string]held) {
		for _, h := range of {
			for _, id := range h[r].IDs {
				taken[id] = true
			}
		}
	}
	take(mine)
	for _, of := range m.records {
		take(of)
	}
	for id, healthy := range m.kinds[r].devices {
		if healthy && !taken[id] {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// forget frees what pods have that are gone without notice.
func (m *Manager) forget() {
	m.mu.Lock()
	uids := slices.Collect(maps.Keys(m.records))
	m.mu.Unlock()
	for _, uid := range uids {
		if !m.cfg.Known(uid) { // outside of the lock: it asks others
			m.Free(uid)
		}
	}
}

// Free takes back what a pod has.
func (m *Manager) Free(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, has := m.records[uid]; !has {
		return
	}
	delete(m.records, uid)
	if err := m.save(); err != nil { // they are free all the same; after a restart the pod is not known
		m.cfg.Logger.Warn("devices that are free again are not recorded", zap.Error(err))
	}
}

// Options is what a container needs to use its devices. Plugins that want to know are told that it starts.
func (m *Manager) Options(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (out workers.DeviceOptions, err error) {
	m.mu.Lock()
	h := m.records[pod.UID][c.Name]
	plugins := map[string]*plugin{}
	for r := range h {
		if k := m.kinds[r]; k != nil {
			plugins[r] = k.plugin
		}
	}
	m.mu.Unlock()
	out.Annotations = map[string]string{}
	for _, r := range slices.Sorted(maps.Keys(h)) {
		if p := plugins[r]; p != nil {
			if err := p.start(ctx, h[r].IDs); err != nil {
				return out, err
			}
		}
		resp := &api.ContainerAllocateResponse{}
		if err := proto.Unmarshal(h[r].Response, resp); err != nil {
			return out, fmt.Errorf("devices: what was allocated of %s: %w", r, err)
		}
		merge(&out, resp)
	}
	return out, nil
}

// merge adds what one plugin answered. Of two that say the same the first counts.
func merge(out *workers.DeviceOptions, r *api.ContainerAllocateResponse) {
	for _, k := range slices.Sorted(maps.Keys(r.Envs)) {
		if !slices.ContainsFunc(out.Env, func(e corev1.EnvVar) bool { return e.Name == k }) {
			out.Env = append(out.Env, corev1.EnvVar{Name: k, Value: r.Envs[k]})
		}
	}
	for _, d := range r.Devices {
		if !slices.ContainsFunc(out.Devices, func(o *runtimeapi.Device) bool { return o.ContainerPath == d.ContainerPath }) {
			out.Devices = append(out.Devices, &runtimeapi.Device{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Permissions: d.Permissions})
		}
	}
	for _, d := range r.Mounts {
		if !slices.ContainsFunc(out.Mounts, func(o *runtimeapi.Mount) bool { return o.ContainerPath == d.ContainerPath }) {
			out.Mounts = append(out.Mounts, &runtimeapi.Mount{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Readonly: d.ReadOnly})
		}
	}
	for k, v := range r.Annotations {
		if _, has := out.Annotations[k]; !has {
			out.Annotations[k] = v
		}
	}
	for _, d := range r.CdiDevices {
		if strings.TrimSpace(d.Name) != "" {
			out.CDI = append(out.CDI, &runtimeapi.CDIDevice{Name: d.Name})
		}
	}
}
