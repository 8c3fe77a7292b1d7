// Package downward is the downward API: fields of a pod and resources of its containers as text, for variables and files.
//
// # Concurrency
//
// Functions without state: call them from anywhere.
package downward

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Addresses are those of a pod and of its node. They are given apart, since a pod's status is behind when its containers
// start.
type Addresses struct {
	Pod  []string
	Host []string
}

// AddressesOf puts the addresses of a pod into the order of its node's: the family of the node's first address comes first.
// A pod on the node's network that has none yet has those of the node.
func AddressesOf(pod *corev1.Pod, ips []string, node *corev1.Node) Addresses {
	a := Addresses{Pod: slices.Clone(ips), Host: HostIPs(node)}
	if len(a.Host) == 0 {
		for _, ip := range pod.Status.HostIPs {
			a.Host = append(a.Host, ip.IP)
		}
	}
	if len(a.Pod) == 0 && pod.Spec.HostNetwork {
		a.Pod = slices.Clone(a.Host)
	}
	if len(a.Host) > 0 && len(a.Pod) > 1 && is6(a.Pod[0]) != is6(a.Host[0]) {
		slices.SortStableFunc(a.Pod, func(x, y string) int {
			first := func(s string) int {
				if is6(s) == is6(a.Host[0]) {
					return 0
				}
				return 1
			}
			return first(x) - first(y)
		})
	}
	return a
}

// HostIPs are a node's addresses that its pods are told: the first internal one, or else the first external one, and the
// first of the other family.
func HostIPs(node *corev1.Node) (ips []string) {
	if node == nil {
		return nil
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range node.Status.Addresses {
			if a.Type != kind {
				continue
			}
			if len(ips) == 0 || (len(ips) == 1 && is6(ips[0]) != is6(a.Address)) {
				ips = append(ips, a.Address)
			}
		}
		if len(ips) > 0 {
			return ips
		}
	}
	return nil
}

func is6(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && a.Is6() && !a.Is4In6()
}

// Field is the value of a field by its path, such as "metadata.labels['app']". A label that is not there is empty.
func Field(pod *corev1.Pod, path string, a Addresses) (string, error) {
	if name, key, ok := subscript(path); ok {
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return FormatMap(pod.Labels), nil
	case "metadata.annotations":
		return FormatMap(pod.Annotations), nil
	case "spec.nodeName", "spec.host":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		if len(a.Host) == 0 {
			return "", fmt.Errorf("unable to get the addresses of node %q", pod.Spec.NodeName)
		}
		return a.Host[0], nil
	case "status.hostIPs":
		return strings.Join(a.Host, ","), nil
	case "status.podIP":
		if len(a.Pod) == 0 {
			return "", nil
		}
		return a.Pod[0], nil
	case "status.podIPs":
		return strings.Join(a.Pod, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// subscript splits "metadata.labels['key']".
func subscript(path string) (name, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return "", "", false
	}
	name, key, ok = strings.Cut(rest, "['")
	return name, key, ok && name != ""
}

// FormatMap writes labels or annotations as lines key="value", sorted, without a newline at the end.
func FormatMap(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, fmt.Sprintf("%s=%q", k, m[k]))
	}
	return strings.Join(lines, "\n")
}

// Resource is the amount of a container's request or limit in units of the divisor, rounded up. self is the container that
// is meant when the selector names none; it may be nil. A limit that is not set is that of the pod, or else all that the node
// has for pods.
func Resource(pod *corev1.Pod, self *corev1.Container, sel *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	c := self
	if sel.ContainerName != "" {
		if c = container(pod, sel.ContainerName); c == nil {
			return "", fmt.Errorf("container %s not found", sel.ContainerName)
		}
	}
	if c == nil {
		return "", fmt.Errorf("container name is required for resource %v", sel.Resource)
	}
	what, name, _ := strings.Cut(sel.Resource, ".")
	resourceName := corev1.ResourceName(name)
	milli, known := units(resourceName)
	if !known {
		return "", fmt.Errorf("unsupported container resource : %v", sel.Resource)
	}
	var amount resource.Quantity
	switch what {
	case "limits":
		amount = limit(pod, c, resourceName, allocatable)
	case "requests":
		amount = c.Resources.Requests[resourceName]
	default:
		return "", fmt.Errorf("unsupported container resource : %v", sel.Resource)
	}
	divisor := sel.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if milli {
		return strconv.FormatInt(ceil(amount.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceil(amount.Value(), divisor.Value()), 10), nil
}

// units tells whether a resource is counted in thousandths, and whether a container may ask for it here.
func units(name corev1.ResourceName) (milli, known bool) {
	switch {
	case name == corev1.ResourceCPU:
		return true, true
	case name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		return false, true
	}
	return false, false
}

func limit(pod *corev1.Pod, c *corev1.Container, name corev1.ResourceName, allocatable corev1.ResourceList) resource.Quantity {
	if q, ok := c.Resources.Limits[name]; ok && !q.IsZero() {
		return q
	}
	if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
		return resource.Quantity{}
	}
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[name]; ok && !q.IsZero() {
			return q
		}
	}
	return allocatable[name]
}

func container(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func ceil(amount, divisor int64) int64 {
	if divisor == 0 {
		divisor = 1
	}
	return int64(math.Ceil(float64(amount) / float64(divisor)))
}
