package workers

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Rejection is why a node does not take a pod. The pod fails with it.
type Rejection struct {
	Reason  string
	Message string
}

// admit decides whether the node takes a pod, next to those that it has.
func (ws *Workers) admit(p *corev1.Pod, others []*corev1.Pod) *Rejection {
	if r := ws.sysctls(p); r != nil {
		return r
	}
	for _, check := range ws.cfg.Admit {
		if r := check(p); r != nil {
			return r
		}
	}
	node := ws.cfg.Node()
	if node == nil {
		return nil
	}
	if r := matchNode(p, node); r != nil {
		return r
	}
	if r := hostPorts(p, others); r != nil {
		return r
	}
	return fits(p, node, others)
}

// matchNode holds a pod to what it demands of its node. The scheduler has done so, but the node may have changed, and pods may
// come without a scheduler.
func matchNode(p *corev1.Pod, node *corev1.Node) *Rejection {
	if os := p.Spec.OS; os != nil && os.Name != corev1.Linux {
		return &Rejection{"PodOSNotSupported", fmt.Sprintf("Failed to admit pod as the OS field doesn't match node OS (%s)", os.Name)}
	}
	if p.Spec.NodeName != "" && p.Spec.NodeName != node.Name {
		return &Rejection{"NodeName", "Predicate NodeName failed: node(s) didn't match the requested node name"}
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(node); err != nil || !ok {
		return &Rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

// hostPorts refuses a pod whose ports on the node are taken.
func hostPorts(p *corev1.Pod, others []*corev1.Pod) *Rejection {
	type port struct {
		protocol corev1.Protocol
		number   int32
	}
	taken := map[port][]string{}
	each := func(p *corev1.Pod, f func(port, string)) {
		for _, m := range portMappings(p) {
			if m.HostPort > 0 {
				f(port{corev1.Protocol(m.Protocol.String()), m.HostPort}, cmp.Or(m.HostIp, "0.0.0.0"))
			}
		}
	}
	for _, o := range others {
		each(o, func(k port, ip string) { taken[k] = append(taken[k], ip) })
	}
	clash := false
	each(p, func(k port, ip string) {
		clash = clash || slices.ContainsFunc(taken[k], func(o string) bool { return o == ip || o == "0.0.0.0" || ip == "0.0.0.0" })
	})
	if clash {
		return &Rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
	}
	return nil
}

// fits holds the sum of requests to what the node can allocate.
func fits(p *corev1.Pod, node *corev1.Node, others []*corev1.Pod) *Rejection {
	free := node.Status.Allocatable
	if n, ok := free[corev1.ResourcePods]; ok && int64(len(others)+1) > n.Value() {
		return outOf(corev1.ResourcePods, 1, int64(len(others)), n.Value())
	}
	used := corev1.ResourceList{}
	for _, o := range others {
		for name, q := range helpers.PodRequests(o, helpers.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	want := helpers.PodRequests(p, helpers.PodResourcesOptions{})
	for _, name := range sortedNames(want) {
		q := want[name]
		if q.IsZero() {
			continue
		}
		capacity, has := free[name]
		if !has && !standard(name) {
			continue // a resource of the cluster that no node counts
		}
		sum := used[name]
		total := sum.DeepCopy()
		total.Add(q)
		if total.Cmp(capacity) > 0 {
			return outOf(name, amount(name, q), amount(name, sum), amount(name, capacity))
		}
	}
	return nil
}

func standard(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func sortedNames(l corev1.ResourceList) (names []corev1.ResourceName) {
	for n := range l {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// amount is how much of a resource there is in the unit in which it is told: thousandths for CPU.
func amount(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func outOf(name corev1.ResourceName, requested, used, capacity int64) *Rejection {
	return &Rejection{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
}

// safeSysctls are those that a pod may set without harm to others.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// sysctls refuses a pod that sets what it must not.
func (ws *Workers) sysctls(p *corev1.Pod) *Rejection {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		allowed := func(pattern string) bool {
			prefix, any := strings.CutSuffix(pattern, "*")
			return name == pattern || any && strings.HasPrefix(name, prefix)
		}
		if !slices.ContainsFunc(safeSysctls, allowed) && !slices.ContainsFunc(ws.cfg.Options.UnsafeSysctls, allowed) {
			return &Rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)}
		}
		if p.Spec.HostNetwork && strings.HasPrefix(name, "net.") {
			return &Rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host net enabled", s.Name)}
		}
		if p.Spec.HostIPC && (strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")) {
			return &Rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host ipc enabled", s.Name)}
		}
	}
	return nil
}
