package kinds

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// connectVerbs are those of subresources that pass every request on.
func connectVerbs() []string { return []string{"create", "delete", "get", "patch", "update"} }

func nodeKind() *Kind {
	status, info := corev1.NodeStatus{}.SwaggerDoc(), corev1.NodeSystemInfo{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Node"), Resource: "nodes", Singular: "node", ShortNames: []string{"no"}, Place: "minions",
		New: func() Object { return &corev1.Node{} }, NewList: func() runtime.Object { return &corev1.NodeList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true, StatusAtCreation: true},
		Subresources: []Subresource{{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("NodeProxyOptions"), Verbs: connectVerbs()}},
		FieldNames:   []string{"spec.unschedulable"},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Status", "The status of the node"), textColumn("Roles", "The roles of the node"), ageColumn,
			textColumn("Version", info["kubeletVersion"]), wideColumn("Internal-IP", status["addresses"]), wideColumn("External-IP", status["addresses"]),
			wideColumn("OS-Image", info["osImage"]), wideColumn("Kernel-Version", info["kernelVersion"]),
			wideColumn("Container-Runtime", info["containerRuntimeVersion"]),
		},
	}, Rules[*corev1.Node]{
		Default: defaultNode, Validate: validateNode, ValidateUpdate: validateNodeUpdate, ValidateStatus: validateNodeStatus, Warnings: warnOfNode,
		Create: func(o *corev1.Node) {
			o.Spec.ConfigSource, o.Status.Config = nil, nil // of a feature that is gone
			dropGatedOfNode(o)
		},
		Update: func(o, old *corev1.Node) {
			if old.Spec.ConfigSource == nil {
				o.Spec.ConfigSource = nil
			}
			dropGatedOfNode(o)
		},
		UpdateStatus: func(o, old *corev1.Node) {
			if old.Status.Config == nil {
				o.Status.Config = nil
			}
			dropGatedOfNode(o)
		},
		Spec:   func(o *corev1.Node) any { return &o.Spec },
		Status: func(o *corev1.Node) any { return &o.Status },
		Fields: func(o *corev1.Node) map[string]string {
			return map[string]string{"spec.unschedulable": strconv.FormatBool(o.Spec.Unschedulable)}
		},
		Row: nodeRow,
	})
}

func defaultNode(o *corev1.Node) {
	if o.Status.Allocatable == nil && o.Status.Capacity != nil {
		o.Status.Allocatable = o.Status.Capacity.DeepCopy()
	}
	switch s := &o.Spec; { // the single range is for old clients
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	}
	roundQuantities(o.Status.Capacity, o.Status.Allocatable)
}

// roundQuantities rounds up to thousandths, which is as exact as quantities are compared.
func roundQuantities(lists ...corev1.ResourceList) {
	for _, l := range lists {
		for name, q := range l {
			q.RoundUp(-3)
			l[name] = q
		}
	}
}

func nodeRow(o *corev1.Node, now time.Time) []any {
	state := "Unknown"
	for _, c := range o.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status == corev1.ConditionTrue:
			state = "Ready"
		default:
			state = "NotReady"
		}
	}
	if o.Spec.Unschedulable {
		state += ",SchedulingDisabled"
	}
	info := &o.Status.NodeInfo
	kernel := orText(info.KernelVersion, "<unknown>")
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{
		o.Name, state, nodeRoles(o), age(o, now), info.KubeletVersion, nodeAddress(o, corev1.NodeInternalIP), nodeAddress(o, corev1.NodeExternalIP),
		orText(info.OSImage, "<unknown>"), kernel, orText(info.ContainerRuntimeVersion, "<unknown>"),
	}
}

// nodeRoles lists the roles that labels give a node.
func nodeRoles(o *corev1.Node) string {
	roles := map[string]bool{}
	for k, v := range o.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles[role] = true
		}
		if k == "kubernetes.io/role" && v != "" {
			roles[v] = true
		}
	}
	return orText(strings.Join(slices.Sorted(maps.Keys(roles)), ","), "<none>")
}

func nodeAddress(o *corev1.Node, of corev1.NodeAddressType) string {
	for _, a := range o.Status.Addresses {
		if a.Type == of {
			return a.Address
		}
	}
	return "<none>"
}

// dropGatedOfNode drops what alpha features alone have.
func dropGatedOfNode(o *corev1.Node) { o.Spec.PodPreemptionPolicy = nil }
